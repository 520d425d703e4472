// Uploads a dropped or chosen file as the body of one request and passes the answer to the page.
export default {
  template: `
    <div class="drop" :class="{ over }" @dragover.prevent="over = true" @dragleave="over = false" @drop.prevent="drop">
      <slot></slot>
      <label class="button" :aria-disabled="busy">
        Choose a file
        <input type="file" class="visually-hidden" :accept="accept" :disabled="busy" @change="choose" data-testid="import-file">
      </label>
      <progress v-if="busy" :value="share" max="1" aria-label="Upload"></progress>
      <p class="small muted" role="status">{{ words }}</p>
    </div>`,
  props: { url: String, accept: String, maxBytes: Number, hint: String, choices: Object },
  data: () => ({ over: false, busy: false, share: 0, words: "" }),
  methods: {
    drop(event) {
      this.over = false;
      const file = event.dataTransfer.files[0];
      if (file && !this.busy) this.send(file);
    },
    choose(event) {
      const file = event.target.files[0];
      event.target.value = "";
      if (file) this.send(file);
    },
    // Reads the choices just before sending, because the server may not know the newest choice yet.
    address(extra) {
      const chosen = Object.entries(this.choices ?? {}).map(([name, id]) => [name, document.getElementById(id).value]);
      chosen.push(...Object.entries(extra));
      return chosen.length ? `${this.url}?${new URLSearchParams(chosen)}` : this.url;
    },
    // Sends the last file again. The page calls this when a person has answered a question about it.
    resend(extra) {
      if (this.last && !this.busy) this.send(this.last, extra);
    },
    send(file, extra = {}) {
      this.last = file;
      if (file.size > this.maxBytes) {
        this.$emit("done", { detail: `${file.name} is too large: at most ${Math.round(this.maxBytes / 1e6)} MB can be imported at once. ${this.hint}` });
        return;
      }
      this.busy = true;
      this.share = 0;
      this.words = `Sending ${file.name} …`;
      const request = new XMLHttpRequest();
      request.open("POST", this.address(extra));
      request.responseType = "json";
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
      request.upload.onprogress = (event) => (this.share = event.total ? event.loaded / event.total : 0);
      request.upload.onload = () => (this.words = "Reading the file …");
      const end = (answer) => {
        this.busy = false;
        this.words = "";
        this.$emit("done", answer);
      };
      request.onload = () => end(request.response ?? { detail: `The server answered ${request.status}. Try again.` });
      request.onerror = () => end({ detail: "The connection was lost while sending. Try again." });
      request.send(file);
    },
  },
};
