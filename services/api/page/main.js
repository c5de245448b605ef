/** Brings the parts together: asks every two seconds how things stand, and at once when something happens. */

import { ApiError, call, key } from "./api.js";
import { tones } from "./drawing.js";
import { patch } from "./dom.js";
import { ground, peers, processes } from "./fleet.js";
import { clock } from "./format.js";
import { domains, gloss } from "./loop.js";
import { News, TYPES } from "./news.js";
import { discord, figures, sentence } from "./overview.js";
import { skills } from "./skills.js";
import { Stream } from "./stream.js";
import { Trial } from "./trial.js";

const PERIOD = 2000; // milliseconds between two looks
const AWAY = 1000; // the same, while there was no answer
const SOONEST = 400; // milliseconds between two looks when much happens
const BACKLOG = 300; // events of the journal that the page looks back on when it opens

const at = (id) => document.getElementById(id);
const news = new News();
const trial = new Trial(refused);
const stream = new Stream({ types: TYPES, heard, lost: soon, refused });

let stood = null; // when the last answer was given, by the server's clock
let timer = null;
let looked = 0;
let looking = false;
let again = false;
let link = "connecting";

async function look() {
  if (looking || link === "locked") return;
  clearTimeout(timer);
  [looking, again, looked] = [true, false, performance.now()];
  try {
    const status = await call("GET", "v1/status", { within: 4 * PERIOD });
    if (link !== "locked") show(status); // or something else was refused meanwhile
  } catch (error) {
    if (!refused(error)) away(error);
  }
  looking = false;
  if (again) soon();
  else timer = setTimeout(look, document.hidden ? 5 * PERIOD : link === "away" ? AWAY : PERIOD);
}

function soon() {
  again = true;
  if (looking) return; // then after this look
  clearTimeout(timer);
  timer = setTimeout(look, Math.max(0, SOONEST - (performance.now() - looked)));
}

function show(status) {
  stood = status.time;
  set("live", "live");
  const { text, beside } = sentence(status);
  write("sentence", text);
  write("aside", beside);
  at("live").hidden = false;
  patch(at("tones"), [tones(discord(status), at("tones").clientWidth)]);
  patch(at("figures"), figures(status));
  write("gloss", gloss(status));
  patch(at("domains"), domains(status));
  patch(at("skills"), skills(status));
  patch(at("processes"), processes(status));
  patch(at("peers"), peers(status));
  patch(at("news"), news.items());
  write("ground", ground(status));
  trial.offer(status);
  if (!stream.running && !document.hidden) stream.start(Math.max(0, status.journal.sequence - BACKLOG));
}

function heard(event) {
  const aloud = news.take(event);
  if (aloud) write("said", aloud);
  trial.heard(event);
  soon();
}

/** True where the reader has to give a key, or another one: the page asks for it. */
function refused(error) {
  if (error.status !== 401 && error.status !== 403) return false;
  const wrong = key.get() !== null;
  key.drop();
  stream.stop();
  set("locked", "locked");
  write("sentence", wrong ? "That key does not open this page." : "This fleet is locked.");
  write("aside", wrong || error.status === 403 ? error.message : "");
  at("live").hidden = true;
  at("lock").hidden = false;
  at("key").focus();
  return true;
}

function away(error) {
  const alone = error.status === 0;
  const ours = !(error instanceof ApiError);
  if (ours) console.error(error);
  set("away", ours ? "page failed" : alone ? "no answer" : "no fleet");
  write("sentence", ours ? "This page has a fault." : alone ? error.message : "No fleet behind this page.");
  const why = alone ? "" : `${error.message.replace(/\.?$/, ".")} `;
  const since = stood ? `Below: how it stood at ${clock(stood)}. ` : "";
  write("aside", `${why}${since}It is asked again every second.`);
  at("live").hidden = stood === null;
}

function set(state, text) {
  if (link !== state && link !== "connecting" && state !== "locked") write("said", `connection: ${text}`);
  link = state;
  at("link").dataset.state = state;
  write("link-text", text);
  at("forget-key").hidden = key.get() === null;
  at("metrics").hidden = state === "locked" || key.get() !== null; // a link carries no key
  document.body.classList.toggle("away", state === "away");
}

/** Text that is the same is left alone: nothing is read out twice. */
function write(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
  if (id === "sentence") document.title = `${text} · Consonance`; // a tab in the background tells, too
}

at("lock").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(at("key").value.trim());
  at("key").value = "";
  at("lock").hidden = true;
  set("connecting", "connecting");
  write("sentence", "Connecting to the fleet …");
  soon();
});
at("forget-key").addEventListener("click", () => {
  key.drop();
  location.reload();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream.stop(); // a browser has few connections to one server; the next look starts it again
  else look();
});
patch(at("tones"), [tones(0, at("tones").clientWidth)]);
look();
