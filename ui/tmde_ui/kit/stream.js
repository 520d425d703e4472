// Text that grows. It only ever becomes a text node, so nothing in it can turn into markup.
// `put` says where the piece belongs, so that a piece that arrives twice, or before a whole update, does no harm.
export default {
  template: `<div class="stream"></div>`,
  props: { text: { type: String, default: "" } },
  mounted() {
    this.node = document.createTextNode(this.text);
    this.$el.append(this.node);
  },
  watch: {
    text(whole) {
      if (whole !== this.node.data) this.node.data = whole;
    },
  },
  methods: {
    put(at, piece) {
      if (at <= this.node.length) this.node.replaceData(at, this.node.length - at, piece);
    },
  },
};
