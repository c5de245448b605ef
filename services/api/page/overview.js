/** The sentence at the top, and the figures under it. */

import { spark } from "./drawing.js";
import { h } from "./dom.js";
import { nameOf } from "./fleet.js";
import { count, counted, duration, signed } from "./format.js";

/** What the fleet is doing, in one sentence, and what should be known beside it. */
export function sentence(status) {
  const { processes, skills, loop } = status;
  const serving = skills.filter((skill) => skill.state === "installed");
  const others = processes.filter(({ state }) => state !== "ready");
  const at = (service) => processes.some((one) => one.service === service && one.state === "ready");
  const beside = others.length
    ? `${processes.length - others.length} of ${processes.length} processes are ready: ` +
      `${others.map((one) => `${nameOf(one)} is ${one.state}`).join(", ")}.`
    : `All ${processes.length} processes are ready.`;
  return { text: clause(loop, serving, at), beside };
}

function clause(loop, serving, at) {
  if (!at("router") || !at("encoder")) return "The fleet is not ready to answer.";
  const learning = loop.domains.find((domain) => domain.training);
  if (learning) {
    const { phase, step, steps } = learning.training;
    const part = steps > 0 ? `, ${Math.round((100 * step) / steps)} % done` : "";
    return `Learning ${learning.domain}: ${phase}${part}.`;
  }
  const open = [...loop.domains].sort((a, b) => b.open - a.open)[0];
  if (open?.open > 0) {
    return `Listening: ${open.domain} has ${open.open} of ${loop.batch_size} clashes.`;
  }
  if (!serving.length) return "Up and listening. Nothing learned yet.";
  const newest = [...serving].sort((a, b) => Date.parse(b.created) - Date.parse(a.created))[0];
  const gain = Number.isFinite(newest.gain) ? `, ${signed(newest.gain)} in MRR@10` : "";
  const rest = `${counted(serving.length, "skill")} in service`;
  return `At rest. ${rest}, the newest ${newest.name}@${newest.version}${gain}.`;
}

/** How far apart the two tones of the picture stand: the fullest open batch, 0 to 1. */
export function discord({ loop }) {
  return Math.max(0, ...loop.domains.map(({ open }) => Math.min(1, open / loop.batch_size)));
}

/** Requests and latency, each over the last five minutes. */
export function figures({ requests }) {
  const { minute, history } = requests;
  const numbers = history.map((one) => one.requests);
  const most = Math.max(0, ...numbers);
  const median = duration(minute.p50_ms).join(" ");
  return [
    group("traffic", spark([{ values: numbers, kind: "area" }, { values: numbers, kind: "line gained" }], `Requests of the last five minutes: at most ${most} in 5 seconds`), [
      figure(count(minute.requests), "", "requests a minute"),
      figure(count(minute.texts), "", "texts a minute"),
      figure(count(minute.failed), "", "failed", minute.failed > 0 ? "bad" : ""),
    ]),
    group(
      "latency",
      spark(
        [
          { values: history.map((one) => one.p95_ms), kind: "faint" },
          { values: history.map((one) => one.p50_ms), kind: "line" },
        ],
        `Latency of the last five minutes; the median is ${median} now`,
      ),
      [
        figure(...duration(minute.p50_ms), "median"),
        figure(...duration(minute.p95_ms), "95th percentile"),
      ],
    ),
  ];
}

function group(name, drawing, parts) {
  return h("div", { class: `group ${name}`, "data-key": name }, h("dl", {}, ...parts), drawing);
}

function figure(value, unit, label, tone = "") {
  return h(
    "div",
    { class: `figure ${tone}` },
    h("dt", {}, label),
    h("dd", {}, value, unit && h("small", {}, ` ${unit}`)),
  );
}
