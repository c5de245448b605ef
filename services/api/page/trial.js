/** "Try it": a query against passages, ranked without and with skills; and feedback on what came out. */

import { call } from "./api.js";
import { h, patch } from "./dom.js";
import { short } from "./format.js";
import { connect, made, order, sides } from "./ranking.js";

const MOST = 100;
const EXAMPLE = {
  query: "my new card still has not come",
  passages: [
    "activate my card",
    "card not working",
    "card arrival",
    "lost or stolen card",
    "card delivery estimate",
    "getting a spare card",
    "card about to expire",
  ],
};

export class Trial {
  #at = (id) => document.getElementById(id);
  #asked = null; // what the ranking on the page was made from
  #marks = new Map();
  #waiting = null; // the id of the feedback whose judgement is awaited
  #lately = []; // judgements of the last moments
  #report;

  /** `report(error)` hears where a key is asked for. */
  constructor(report) {
    this.#report = report;
    this.#at("ask").addEventListener("submit", (event) => this.#guard(event, "ask", () => this.#rank()));
    this.#at("giving").addEventListener("submit", (event) => this.#guard(event, "give", () => this.#give()));
    this.#at("example").addEventListener("click", () => this.#example());
    this.#at("ranking").addEventListener("click", (event) => this.#mark(event.target.closest("[data-mark]")));
    new ResizeObserver(() => connect(this.#at("ranking"))).observe(this.#at("ranking"));
  }

  /** The skills and domains to choose from. */
  offer({ skills, loop }) {
    const names = new Set(skills.filter(({ state }) => state === "installed").map(({ name, peer }) => (peer ? `${peer}/${name}` : name)));
    patch(this.#at("model"), [
      h("option", { value: "auto", "data-key": "auto" }, "as the router chooses"),
      ...[...names].map((name) => h("option", { value: name, "data-key": `skill ${name}` }, name)),
    ]);
    patch(
      this.#at("domains-known"),
      loop.domains.map(({ domain }) => h("option", { value: domain, "data-key": domain })),
    );
  }

  /** An event that may be about the feedback given here. */
  heard(event) {
    if (!event.data?.feedback_id) return;
    this.#lately = [...this.#lately, event].slice(-32);
    this.#judged(event);
  }

  #judged({ type, data }) {
    if (!this.#waiting || data.feedback_id !== this.#waiting) return;
    if (type === "dissonance.detected") {
      this.#waiting = null;
      this.#tell("give", `A clash in ${data.domain} (${data.reason}): it joins the open batch.`);
    } else if (type === "feedback.judged") {
      this.#tell("give", `Judged, in ${data.domain}: no clash, unless one is told in a moment.`);
    }
  }

  async #guard(event, form, work) {
    event.preventDefault();
    const button = event.target.querySelector("[type=submit]");
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true"); // it keeps the focus, as a disabled one would not
    try {
      await work();
    } catch (error) {
      if (error.status !== 401 || !this.#report(error)) this.#tell(form, error.message, true);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  async #rank() {
    const query = this.#at("query").value.trim();
    const lines = this.#at("passages").value.split("\n").map((line) => line.trim());
    const texts = [...new Set(lines.filter(Boolean))];
    if (!query || !texts.length) return this.#tell("ask", "A query and at least one passage are needed.", true);
    if (texts.length > MOST) return this.#tell("ask", `At most ${MOST} passages, please; these are ${texts.length}.`, true);
    this.#tell("ask", "Ranking …");
    const model = this.#at("model").value;
    const [passages, plain, bent] = await Promise.all([
      embed("base", texts, "document"),
      embed("base", [query], "query"),
      embed(model, [query], "query"),
    ]);
    const vectors = passages.map(({ embedding }) => embedding);
    const how = bent[0].consonance ?? {};
    this.#asked = { query, texts, served: (how.skills ?? []).map(({ digest }) => digest) };
    this.#marks.clear();
    this.#waiting = null;
    const base = order(plain[0].embedding, vectors);
    const skilled = order(bent[0].embedding, vectors);
    this.#at("ranking").replaceChildren(sides(texts, base, skilled, made(how)));
    connect(this.#at("ranking"));
    this.#at("giving").hidden = false;
    const [first] = skilled;
    const same = base[0].index === first.index;
    this.#tell("ask", `Ranked ${texts.length}. First with skills: ${texts[first.index]}${same ? ", as without" : ""}.`);
    this.#tell("give", "Say which are right, and which stand too high.");
  }

  #mark(button) {
    if (!button) return;
    const index = Number(button.dataset.of);
    const kind = button.dataset.mark;
    if (this.#marks.get(index) === kind) this.#marks.delete(index);
    else this.#marks.set(index, kind);
    this.#press();
    const number = (wanted) => [...this.#marks.values()].filter((one) => one === wanted).length;
    this.#tell("give", `${number("relevant")} right, ${number("irrelevant")} wrong.`);
  }

  #press() {
    for (const button of this.#at("ranking").querySelectorAll("[data-mark]")) {
      const marked = this.#marks.get(Number(button.dataset.of)) === button.dataset.mark;
      button.setAttribute("aria-pressed", String(marked));
    }
  }

  async #give() {
    const { query, texts, served } = this.#asked;
    const marked = (kind) => [...this.#marks].filter(([, one]) => one === kind).map(([index]) => texts[index]);
    if (!this.#marks.size) return this.#tell("give", "Mark a passage as right or wrong first.", true);
    const domain = this.#at("domain").value.trim();
    const said = { query, relevant: marked("relevant"), irrelevant: marked("irrelevant"), served };
    const { id } = await call("POST", "v1/feedback", { body: domain ? { ...said, domain } : said });
    this.#waiting = id;
    this.#marks.clear();
    this.#press();
    this.#tell("give", `Kept, as ${short(id)}. It is being judged.`);
    this.#lately.forEach((event) => this.#judged(event)); // it may have been quicker than the answer
  }

  #example() {
    this.#at("query").value = EXAMPLE.query;
    this.#at("passages").value = EXAMPLE.passages.join("\n");
    this.#at("query").focus();
  }

  #tell(form, text, bad = false) {
    const place = this.#at(`${form}-told`);
    place.textContent = text;
    place.classList.toggle("bad", bad);
  }
}

/** One item of `data` a text, in the order of the texts. */
async function embed(model, texts, role) {
  const { data } = await call("POST", "v1/embeddings", { body: { model, input: texts, role } });
  return [...data].sort((a, b) => a.index - b.index);
}
