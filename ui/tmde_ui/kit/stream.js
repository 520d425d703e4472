// Shows growing text in a text node, so the text can never become markup.
// `put` gets the position of each piece, so a piece that arrives twice or before a full update does no harm.
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
