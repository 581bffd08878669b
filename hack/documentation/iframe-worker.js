/* The search runs in a Worker, which browsers refuse to pages that were opened as files. There it runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = "<!doctype html><body></body>"
      this.started = new Promise(loaded => { this.frame.onload = loaded }).then(() => this.start(new URL(url, location)))
      const append = () => document.body.appendChild(this.frame)
      document.body ? append() : document.addEventListener("DOMContentLoaded", append)
    }

    start(url) {
      this.inside = this.frame.contentWindow
      const load = source => new Promise((loaded, failed) => {
        const script = this.inside.document.createElement("script")
        script.src = new URL(source, url)
        script.onload = loaded
        script.onerror = failed
        this.inside.document.body.appendChild(script)
      })
      this.inside.importScripts = (...sources) =>
        sources.reduce((before, next) => before.then(() => load(next)), Promise.resolve())
      this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      return load(url)
    }

    postMessage(data) {
      this.started.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
