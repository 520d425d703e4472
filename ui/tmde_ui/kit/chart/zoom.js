// A chart with zoom: drag to zoom in, point at a run to read its figures, click it to open it.
// The markup comes from kit/chart/lines.py, which escapes it. The read-out is always set as text.
export default {
  template: `
    <div class="zoom" tabindex="0" role="group" :aria-label="label" @pointerdown="down" @pointermove="move" @pointerup="up"
         @pointercancel="drop" @pointerleave="leave" @keydown="key" @focus="tell" @blur="hide">
      <div v-html="markup"></div>
      <div class="zoom-over" aria-hidden="true">
        <i class="zoom-part" :hidden="!part" :style="part"></i>
        <i class="zoom-dot" :hidden="!at" :style="at"></i>
      </div>
      <p class="zoom-words" role="status">{{ words }}</p>
    </div>`,
  props: { markup: String, label: String, hint: String, keys: String, points: { type: Array, default: () => [] } },
  data: () => ({ part: null, at: null, words: "", from: null, number: -1 }),
  mounted() {
    this.words = this.hint;
  },
  watch: {
    points() {
      this.hide();
    },
  },
  methods: {
    // A person who came by keyboard cannot point.
    tell() {
      if (this.number < 0 && this.$el.matches(":focus-visible")) this.words = this.keys;
    },
    box() {
      return this.$el.querySelector(".plot").getBoundingClientRect();
    },
    place(x, y) {
      const [box, home] = [this.box(), this.$el.getBoundingClientRect()];
      return { x: box.left - home.left + x * box.width, y: box.top - home.top + y * box.height };
    },
    share(event) {
      const box = this.box();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    },
    within(event) {
      const box = this.box();
      return event.clientY >= box.top && event.clientY <= box.bottom && event.clientX >= box.left - 8 && event.clientX <= box.right + 8;
    },
    down(event) {
      if (event.button !== 0 || !this.within(event)) return;
      this.from = this.share(event);
      this.$el.setPointerCapture(event.pointerId);
    },
    move(event) {
      const here = this.share(event);
      if (this.from === null) {
        if (this.within(event)) this.point(this.nearest(here));
        else this.hide();
        return;
      }
      const [low, high] = [Math.min(this.from, here), Math.max(this.from, here)];
      const [start, end] = [this.place(low, 0), this.place(high, 1)];
      this.part = { left: `${start.x}px`, top: `${start.y}px`, width: `${end.x - start.x}px`, height: `${end.y - start.y}px` };
    },
    up(event) {
      if (this.from === null) return;
      const [from, to] = [this.from, this.share(event)];
      this.drop();
      if (Math.abs(to - from) > 0.01) this.$emit("zoom", [Math.min(from, to), Math.max(from, to)]);
      else if (this.number >= 0) this.$emit("open", this.number);
    },
    drop() {
      this.from = null;
      this.part = null;
    },
    leave() {
      if (this.from === null) this.hide();
    },
    nearest(x) {
      let best = -1;
      this.points.forEach((point, number) => {
        if (best < 0 || Math.abs(point[0] - x) < Math.abs(this.points[best][0] - x)) best = number;
      });
      return best;
    },
    point(number) {
      const point = this.points[number];
      if (!point) return;
      this.number = number;
      const place = this.place(point[0], point[1]);
      this.at = { left: `${place.x}px`, top: `${place.y}px` };
      this.words = point[2];
    },
    hide() {
      this.number = -1;
      this.at = null;
      this.words = this.$el.matches(":focus-visible") ? this.keys : this.hint;
    },
    key(event) {
      const last = this.points.length - 1;
      const to = { ArrowLeft: this.number < 0 ? last : this.number - 1, ArrowRight: this.number + 1, Home: 0, End: last }[event.key];
      if (to !== undefined) this.point(Math.min(last, Math.max(0, to)));
      else if (event.key === "Enter" && this.number >= 0) this.$emit("open", this.number);
      else if (event.key === "Escape") this.hide();
      else return;
      event.preventDefault();
    },
  },
};
