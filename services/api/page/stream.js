/** Server-sent events over fetch: EventSource cannot carry an Authorization header. */

import { headers, refusal } from "./api.js";

const SILENCE = 45_000; // milliseconds; the server says something every 15 s
const LONGEST = 10_000; // milliseconds between two tries

export class Stream {
  #types;
  #heard;
  #lost;
  #refused;
  #last = null;
  #stop = null;

  /**
   * `heard(event)` gets each CloudEvent, `lost()` is called when a connection breaks, `refused(error)` for an
   * answer that makes trying again pointless.
   */
  constructor({ types, heard, lost, refused }) {
    this.#types = types;
    this.#heard = heard;
    this.#lost = lost;
    this.#refused = refused;
  }

  get running() {
    return this.#stop !== null;
  }

  /** Listen until stopped; from the journal's number `after` on, where nothing newer was heard. */
  start(after) {
    this.#last ??= after;
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
  }

  async #run(stopped) {
    let wait = 500;
    let connected = false;
    while (!stopped.aborted) {
      connected = false;
      try {
        await this.#listen(stopped, () => (connected = true));
      } catch (error) {
        if (error?.status === 401 || error?.status === 403) {
          this.stop();
          this.#refused(error);
          return;
        }
      }
      if (stopped.aborted) return;
      if (connected) {
        wait = 500;
        this.#lost();
      }
      await new Promise((done) => setTimeout(done, wait * (0.75 + Math.random() / 2)));
      wait = Math.min(2 * wait, LONGEST);
    }
  }

  async #listen(stopped, connected) {
    const givenUp = new AbortController();
    const query = new URLSearchParams({ types: this.#types.join(",") });
    const resume = this.#last === null ? {} : { "Last-Event-ID": String(this.#last) };
    let silence = setTimeout(() => givenUp.abort(), SILENCE);
    try {
      const answer = await fetch(`v1/events?${query}`, {
        headers: headers({ Accept: "text/event-stream", ...resume }),
        signal: AbortSignal.any([stopped, givenUp.signal]),
        cache: "no-store",
      });
      if (!answer.ok) throw await refusal(answer);
      connected();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser((id, type, data) => this.#take(id, type, data));
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(() => givenUp.abort(), SILENCE);
        parse(value);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  #take(id, type, data) {
    if (id !== null) this.#last = id;
    let event = null;
    try {
      event = JSON.parse(data);
    } catch {
      return; // a number to go on from, without an event
    }
    if (event?.type === type && event.data) this.#heard(event);
  }
}

/** A function that takes the text as it comes, in pieces of any size, and dispatches whole events. */
function parser(dispatch) {
  let rest = "";
  let [id, type, data] = [null, "message", []];
  const line = (text) => {
    if (text === "") {
      if (data.length || id !== null) dispatch(id, type, data.join("\n"));
      [id, type, data] = [null, "message", []];
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "id") id = value;
    else if (field === "event") type = value;
    else if (field === "data") data.push(value);
  };
  return (text) => {
    rest += text;
    const lines = rest.split(/\r\n|\n/);
    rest = lines.pop();
    lines.forEach(line);
  };
}
