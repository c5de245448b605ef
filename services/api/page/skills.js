/** The skills: what each brought, what it came from, who made it, who holds it. */

import { extent, interval } from "./drawing.js";
import { folded, h } from "./dom.js";
import { ago, bytes, count, counted, score, short, signed } from "./format.js";

const SHOWN = 8;

/** One article a name: its serving version in full, the others folded away. */
export function skills(status) {
  if (!status.skills.length) {
    return [h("p", { class: "soft" }, "None yet. The first comes when a card passes the gate.")];
  }
  const names = new Map();
  for (const skill of status.skills) {
    const name = skill.peer ? `${skill.peer}/${skill.name}` : skill.name;
    names.set(name, [...(names.get(name) ?? []), skill]);
  }
  const axis = extent(status.skills);
  const articles = [...names].map(([name, versions]) => article(name, versions, status, axis));
  return folded(articles, SHOWN, (rest) => counted(rest, "other skill"));
}

function article(name, versions, status, axis) {
  const sorted = [...versions].sort((a, b) => rank(b) - rank(a) || b.version - a.version);
  const [first, ...others] = sorted;
  return h(
    "article",
    { class: "skill", "data-key": name },
    h(
      "header",
      {},
      h("h3", {}, name, h("span", { class: "version" }, `@${first.version}`)),
      h("p", { class: `state ${first.state}` }, first.state, first.pinned ? ", pinned" : ""),
    ),
    first.description ? h("p", { class: "text" }, first.description) : null,
    gain(first, axis),
    h("dl", { class: "facts" }, ...facts(first, status)),
    others.length
      ? h(
          "details",
          {},
          h("summary", {}, counted(others.length, "other version")),
          h("ul", { class: "versions" }, ...others.map((other) => line(other, axis))),
        )
      : null,
  );
}

const rank = ({ state }) => ["rejected", "retired", "kept", "pending", "installed"].indexOf(state);

function gain(skill, axis) {
  if (!Number.isFinite(skill.gain)) return h("p", { class: "soft" }, "no figures");
  const label = `gain ${signed(skill.gain)}, between ${signed(skill.low)} and ${signed(skill.high)}`;
  return h(
    "div",
    { class: "gain" },
    interval(skill, axis, { good: skill.state === "installed", label }),
    h(
      "p",
      { class: "numbers" },
      h("span", { class: "strong" }, signed(skill.gain)),
      h("span", { class: "soft" }, `MRR@10 ${score(skill.before)} → ${score(skill.after)}`),
    ),
  );
}

function facts(skill, { skills: all, time }) {
  const maker = skill.peer ? `the peer ${skill.peer}` : "this node";
  const signer = skill.signer ? `, signed ${skill.signer.slice(0, 20)}…` : "";
  return [
    fact("Lineage", lineage(skill, all)),
    fact("Made by", `${maker}${signer}, ${ago(skill.created, time)}`),
    fact("Bends", [...skill.applies_to].join(" and ") || "–"),
    fact("Held by", skill.workers.length ? skill.workers.join(", ") : "no worker now"),
    fact("Card", `${bytes(skill.bytes)}, rank ${count(skill.rank)}, ${short(skill.digest)}`),
  ];
}

/** From the base model to this version, by way of its parents; cards that are gone by their digest. */
function lineage(skill, all) {
  const known = new Map(all.map((other) => [other.digest, other]));
  const line = [`@${skill.version}`];
  const seen = new Set();
  for (let at = skill; at?.parents.length && !seen.has(at.digest); at = known.get(at.parents[0])) {
    seen.add(at.digest);
    const names = at.parents.map((digest) => {
      const parent = known.get(digest);
      if (!parent) return short(digest);
      return parent.name === skill.name ? `@${parent.version}` : `${parent.name}@${parent.version}`;
    });
    line.unshift(names.join(" + "));
  }
  return ["base model", ...line].join(" → ");
}

const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function line(skill, axis) {
  return h(
    "li",
    { "data-key": skill.digest },
    h("span", { class: "strong" }, `@${skill.version}`),
    h("span", { class: "soft" }, skill.state),
    h("div", { class: "small" }, interval(skill, axis, { good: false, label: `gain ${signed(skill.gain)}` })),
    h("span", { class: "numbers" }, signed(skill.gain)),
  );
}
