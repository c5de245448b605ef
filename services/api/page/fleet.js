/** The processes, the peers, and what all of it stands on. */

import { h } from "./dom.js";
import { bytes, count, short, span } from "./format.js";

const ORDER = [
  "broker", "router", "encoder", "adapter_manager", "dissonance_monitor", "distiller", "factory", "federation", "api",
]; // the way of a request, then that of a clash

/** Each process with its state in a word; colour only repeats it. */
export function processes({ processes: all }) {
  const place = ({ service }) => (ORDER.indexOf(service) + 1 || ORDER.length + 1);
  const sorted = [...all].sort((a, b) => place(a) - place(b));
  return sorted.map((one) => {
    const several = all.filter(({ service }) => service === one.service).length > 1;
    return h(
      "li",
      { class: "process", "data-key": `${one.service}/${one.instance}`, "data-state": one.state },
      h("span", { class: "lamp", "aria-hidden": "true" }),
      h("span", { class: "name" }, one.service.replaceAll("_", " "), several ? h("small", {}, ` ${number(one)}`) : null),
      h("span", { class: "soft" }, one.state),
      h(
        "span",
        { class: "soft numbers" },
        one.state === "gone" ? `silent for ${span(one.age_s)}` : `queue ${count(one.queue)} · ${bytes(one.rss_bytes)}`,
      ),
      one.trouble ? h("span", { class: "trouble" }, one.trouble) : null,
    );
  });
}

/** encoder/2, for people. */
export const nameOf = (one) => `${one.service}/${number(one)}`;

const number = ({ service, instance }) => (instance.startsWith(`${service}-`) ? instance.slice(service.length + 1) : instance);

/** Other fleets, and the skills they offer. */
export function peers({ peers: all }) {
  if (!all.length) return [h("p", { class: "soft" }, "No peers in sight.")];
  return [
    h("h3", {}, "Peers"),
    h(
      "ul",
      { class: "peers" },
      ...all.map((peer) =>
        h(
          "li",
          { "data-key": peer.peer },
          h("span", { class: "strong" }, peer.peer),
          h("span", { class: "soft" }, peer.endpoint ?? ""),
          h(
            "span",
            {},
            peer.skills.length
              ? `offers ${peer.skills.map((skill) => `${skill.name}@${skill.version}`).join(", ")}`
              : "offers nothing",
          ),
        ),
      ),
    ),
  ];
}

/** The model and the journal, for the last line of the page. */
export function ground({ model, journal }) {
  const what = model ? `${model.id}, ${count(model.dim)} dimensions, ${short(model.sha256)}` : "no model yet";
  return `${what} · journal at ${count(journal.sequence)}`;
}
