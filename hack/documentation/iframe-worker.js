/* The search runs in a Worker, which browsers refuse to pages that were opened as files. There it runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      const load = source => new Promise((loaded, failed) => {
        const script = inside.document.createElement("script")
        script.src = new URL(source, url)
        script.onload = loaded
        script.onerror = failed
        inside.document.body.appendChild(script)
      })
      inside.importScripts = (...sources) => sources.reduce((before, next) => before.then(() => load(next)), Promise.resolve())
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.frame = frame
      this.inside = inside
      this.started = load(url)
    }

    postMessage(data) {
      this.started.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
