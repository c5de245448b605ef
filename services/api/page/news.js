/** What happened, told from the fleet's events. */

import { h } from "./dom.js";
import { brief, clock, counted, signed } from "./format.js";

const KEPT = 40;
const SHOWN = 12;

const card = ({ name, version }) => `${name}@${version}`;

const rejected = (depth, why) =>
  why === "superseded" ? `${depth} gave way to one with more feedback` : `${depth} refused: ${why}`;

/** Per type: of what it tells, what it says, and whether somebody should hear it read out. */
const TELLING = {
  "dissonance.detected": (data) => ({ of: data.domain, what: "clash", clashes: 1 }),
  "learning.batch_queued": (data) => ({ of: data.domain, what: `a batch of ${data.events?.length ?? "?"} is full` }),
  "learning.batch_rejected": (data) => ({ of: "a batch", what: `taught nothing: ${data.reason}` }),
  "training.requested": (data) => ({ of: data.domain, what: `training on ${counted(data.dataset?.rows, "row")}` }),
  "training.rejected": (data) => ({ of: data.skill, what: rejected(data.depth ?? "card", brief(data.reason)) }),
  "skill.published": (data) => ({
    of: card(data.card),
    what: `passed the gate, ${signed(data.card.metrics?.gain)} in MRR@10`,
    good: true,
  }),
  "skill.installed": (data) => ({ of: card(data.card), what: "is in service", good: true, aloud: true }),
  "skill.rejected": (data) => ({ of: data.name, what: `not installed: ${data.reason}`, bad: true, aloud: true }),
  "skill.retired": (data) => ({ of: card(data), what: `retired: ${data.reason}`, aloud: true }),
  "skill.fetched": (data) => ({ of: card(data.card), what: `fetched from ${data.peer}` }),
  "domain.forgotten": (data) => ({ of: data.domain, what: "forgotten" }),
  "peer.joined": (data) => ({ of: data.peer, what: "joined" }),
  "peer.left": (data) => ({ of: data.peer, what: "left" }),
};

/** The types to listen to; the last two are not told, they make the page look again. */
export const TYPES = [...Object.keys(TELLING), "training.progressed", "feedback.judged"];

/** The last things that happened, newest first. */
export class News {
  #lines = [];
  #seen = new Set();

  /** Take an event in; returns what should be read out, or null. */
  take(event) {
    const id = `${event.source} ${event.id}`;
    if (this.#seen.has(id) || !(event.type in TELLING)) return null;
    this.#seen.add(id);
    if (this.#seen.size > 2000) this.#seen = new Set([...this.#seen].slice(-1000));
    const line = { ...TELLING[event.type](event.data), time: event.time, id };
    const last = this.#lines[0];
    if (line.clashes && last?.clashes && last.of === line.of) {
      last.clashes += 1;
      last.time = line.time;
      last.what = counted(last.clashes, "clash", "clashes");
    } else {
      this.#lines = [line, ...this.#lines].slice(0, KEPT);
    }
    return line.aloud ? `${line.of} ${line.what}` : null;
  }

  /** As list items. */
  items() {
    if (!this.#lines.length) return [h("li", { class: "none" }, "Nothing yet.")];
    return this.#lines.slice(0, SHOWN).map((line) =>
      h(
        "li",
        { class: line.good ? "good" : line.bad ? "bad" : "", "data-key": line.id },
        h("time", { datetime: line.time }, clock(line.time)),
        h("p", {}, h("span", { class: "strong" }, line.of), ` ${line.what}`),
      ),
    );
  }
}
