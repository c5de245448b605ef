/** Two orders of the same passages side by side, and the lines between them. */

import { aside, h, s } from "./dom.js";
import { score } from "./format.js";

const WHY = {
  base_requested: "the base model was asked for",
  below_threshold: "none knows queries like this one",
  ambiguous: "more than one skill claims queries like this one",
  document: "documents are left to the base model",
  no_skills: "nothing has been learned yet",
  peer_timeout: "a peer's skill did not come in time",
};

/** Which skills made a vector, or why none did; `made` is the answer's `consonance`. */
export function made({ skills = [], reason = null } = {}) {
  if (skills.length) {
    const names = skills.map((skill) => `${skill.name}@${skill.version} (${score(skill.score, 2)})`);
    return `made by ${names.join(" and ")}`;
  }
  return `no skill applied: ${WHY[reason] ?? reason ?? "none was applied"}`;
}

/** The passages by their cosine to the query, best first; ties keep their order. */
export function order(query, passages) {
  return passages
    .map((vector, index) => ({ index, score: cosine(query, vector) }))
    .sort((a, b) => b.score - a.score || a.index - b.index);
}

function cosine(a, b) {
  let [dot, left, right] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return dot / Math.sqrt(left * right || 1);
}

/** Both lists; `marks` maps a passage's index to "relevant" or "irrelevant". */
export function sides(texts, base, bent, how) {
  const before = places(base);
  const moved = bent.filter(({ index }, place) => before.get(index) !== place).length;
  return h(
    "div",
    { class: "sides" },
    side("base", "Base model", "as everybody gets it", base.map((row, place) => item(texts, row, place))),
    h("div", { class: "between", "aria-hidden": "true" }),
    side(
      "bent",
      "With skills",
      `${how}${moved ? "" : "; the order is the same"}`,
      bent.map((row, place) => item(texts, row, place, before.get(row.index))),
    ),
  );
}

const places = (ranked) => new Map(ranked.map(({ index }, place) => [index, place]));

function side(name, title, how, items) {
  return h(
    "section",
    { class: `side ${name}`, "aria-labelledby": `side-${name}` },
    h("h3", { id: `side-${name}` }, title),
    h("p", { class: "soft how" }, how),
    h("ol", {}, ...items),
  );
}

function item(texts, { index, score: value }, place, before) {
  const judged = before !== undefined;
  return h(
    "li",
    { "data-index": index },
    h("span", { class: "place", "aria-hidden": "true" }, place + 1),
    h("span", { class: "passage" }, texts[index]),
    h("span", { class: "score numbers" }, score(value)),
    judged ? move(before - place, before) : null,
    judged ? h("span", { class: "marks" }, mark("relevant", texts[index], index), mark("irrelevant", texts[index], index)) : null,
  );
}

function move(up, before) {
  if (up === 0) return h("span", { class: "move" }, aside("not moved"));
  const [kind, arrow] = up > 0 ? ["up", "▲"] : ["down", "▼"];
  return h(
    "span",
    { class: `move ${kind}` },
    h("span", { "aria-hidden": "true" }, `${arrow} ${Math.abs(up)}`),
    aside(`${kind} ${Math.abs(up)}, it was number ${before + 1}`),
  );
}

function mark(kind, text, index) {
  const [word, thumb] = kind === "relevant" ? ["Right", "up"] : ["Wrong", "down"];
  return h(
    "button",
    { class: "mark", type: "button", "data-mark": kind, "data-of": index, "aria-pressed": "false", "aria-label": `${word}: ${text}` },
    s(
      "svg",
      { class: `thumb ${thumb}`, viewBox: "0 0 20 20", width: 16, height: 16, "aria-hidden": "true" },
      s("path", { d: "M3 9h3v8H3zM8 9l3-6.5c1.4 0 2.2 1 2 2.4L12.6 8H16c1.1 0 1.9 1 1.7 2.1l-1.1 5.4c-.2.9-.9 1.5-1.8 1.5H8z" }),
    ),
    h("span", {}, word),
  );
}

/** Draw the lines between the two lists as they lie now. */
export function connect(place) {
  const between = place.querySelector(".between");
  if (!between) return;
  const frame = between.getBoundingClientRect();
  const middle = (row) => {
    const box = row.querySelector(".place").getBoundingClientRect();
    return box.top + box.height / 2 - frame.top;
  };
  const rows = (name) => [...place.querySelectorAll(`.side.${name} li`)];
  const left = new Map(rows("base").map((row, at) => [row.dataset.index, { y: middle(row), at }]));
  const lines = rows("bent").map((row, at) => {
    const from = left.get(row.dataset.index);
    const [y, start, end] = [middle(row), 6, frame.width - 8];
    const kind = at < from.at ? "up" : at > from.at ? "down" : "same";
    const half = (start + end) / 2;
    return s("path", { class: kind, d: `M${start} ${from.y}C${half} ${from.y} ${half} ${y} ${end} ${y}` });
  });
  between.replaceChildren(s("svg", { width: frame.width, height: frame.height }, ...lines));
}
