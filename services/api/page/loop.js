/** The centre piece: per domain the dissonance, the open batch, the training, the gate's verdicts. */

import { extent, interval, notches, scale } from "./drawing.js";
import { folded, h } from "./dom.js";
import { ago, brief, clock, count, counted, score, share, signed } from "./format.js";

const VERDICTS = 3;
const DOMAINS = 6;

/** One line that says what is seen below. */
export function gloss({ loop }) {
  return (
    `Where feedback clashes with an answer, a notch fills. ${loop.batch_size} make a batch, the batch ` +
    "becomes a card, and the gate lets it pass only if it beats what is served on queries it has not seen."
  );
}

/** Each domain; without any, an empty bar and what would fill it. */
export function domains({ loop, time }) {
  if (!loop.domains.length) {
    return [
      h(
        "div",
        { class: "empty" },
        notches(0, loop.batch_size, "no clashes yet"),
        h("p", {}, "Nothing learned yet. Rank some passages below, and say which of them are right: that opens a batch."),
      ),
    ];
  }
  const rows = loop.domains.map((domain) => row(domain, loop.batch_size, time));
  return folded(rows, DOMAINS, (rest) => counted(rest, "other domain"));
}

function row(domain, size, now) {
  return h(
    "article",
    { class: "domain", "data-key": domain.domain },
    h(
      "header",
      {},
      h("h3", {}, domain.domain),
      h(
        "p",
        { class: "soft" },
        h("span", { class: "strong" }, share(domain.clashes, domain.feedback)),
        ` dissonance: ${counted(domain.clashes, "clash", "clashes")} in ${counted(domain.feedback, "piece")} of feedback`,
        domain.last ? `, the last ${ago(domain.last, now)}` : "",
      ),
    ),
    h("div", { class: "stages" }, batch(domain, size), training(domain, size), gate(domain)),
  );
}

function stage(name, active, title, ...content) {
  return h(
    "section",
    { class: `stage ${name}${active ? " active" : ""}`, "data-key": name },
    h("h4", {}, title),
    ...content,
  );
}

function batch({ open, training: learning }, size) {
  return stage(
    "batch",
    open > 0 && !learning,
    "Open batch",
    notches(open, size, `${open} of ${size} clashes in the open batch`),
    h("p", { class: "big" }, count(open), h("small", {}, `/${size}`)),
  );
}

function training({ training: learning, open }, size) {
  if (!learning) {
    const missing = size - open;
    const more = open > 0 ? " more" : "";
    const waits = missing > 0 ? `waits for ${counted(missing, "clash", "clashes")}${more}` : "the batch is full";
    return stage("training", false, "Training", h("p", { class: "mood soft" }, waits));
  }
  const { phase, depth, step, steps, loss } = learning;
  const part = steps > 0 ? step / steps : 0;
  return stage(
    "training",
    true,
    "Training",
    h("p", { class: "mood" }, depth && depth !== phase ? `${phase} (${depth})` : phase),
    h("progress", { max: 1, value: part.toFixed(3), "aria-label": `Training, ${phase}` }),
    h("p", { class: "soft numbers" }, `step ${count(step)} of ${count(steps)} · loss ${score(loss)}`),
  );
}

function gate({ verdicts }) {
  if (!verdicts.length) {
    return stage("gate", false, "Gate", h("p", { class: "mood soft" }, "no verdict yet"));
  }
  const axis = extent(verdicts);
  const rows = verdicts.map((one) => verdict(one, axis));
  return stage(
    "gate",
    false,
    "Gate",
    h("p", { class: "unit soft" }, "gain in MRR@10"),
    scale(axis),
    h("ol", { class: "verdicts" }, ...rows.slice(0, VERDICTS)),
    ...folded(rows.slice(VERDICTS), 0, (rest) => `${counted(rest, "verdict")} before`, "ol"),
  );
}

function verdict(one, axis) {
  const outcome = one.published ? `passed as @${one.version ?? "?"}` : "refused";
  const figures = Number.isFinite(one.gain)
    ? `${signed(one.low)} to ${signed(one.high)}`
    : "no figures";
  const label = Number.isFinite(one.gain)
    ? `${outcome}: gain ${signed(one.gain)}, between ${signed(one.low)} and ${signed(one.high)}`
    : `${outcome}, without figures`;
  return h(
    "li",
    { class: one.published ? "verdict passed" : "verdict", "data-key": `${one.time} ${one.depth} ${one.version}` },
    h(
      "p",
      { class: "outcome" },
      h("span", { class: "what" }, outcome),
      h("span", { class: "soft" }, [one.depth, clock(one.time)].filter(Boolean).join(" · ")),
    ),
    interval(one, axis, { good: one.published, label }),
    h(
      "p",
      { class: "numbers" },
      Number.isFinite(one.gain) ? h("span", { class: "strong" }, signed(one.gain)) : null,
      h("span", { class: "soft" }, figures, Number.isFinite(one.groups) ? ` · ${count(one.groups)} groups` : ""),
    ),
    one.published ? null : h("p", { class: "why soft" }, brief(one.reason)),
  );
}
