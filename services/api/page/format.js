/** Figures and times as people read them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const NOTHING = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 12,480 */
export const count = (value) => (known(value) ? whole.format(value) : NOTHING);

/** "1 clash", "3 clashes" */
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** +0.052, with a real minus */
export function signed(value, digits = 3) {
  if (!known(value)) return NOTHING;
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text; // no sign of a zero
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** 0.713 */
export const score = (value, digits = 3) =>
  known(value) ? value.toFixed(digits).replace("-", "−") : NOTHING;

/** 36 % */
export const share = (part, all) => (all > 0 && known(part) ? `${Math.round((100 * part) / all)} %` : NOTHING);

/** A number and its unit apart, so that the unit can be set smaller. */
export function duration(ms) {
  if (!known(ms)) return [NOTHING, ""];
  if (ms < 10) return [ms.toFixed(1), "ms"];
  return ms < 1000 ? [whole.format(ms), "ms"] : [(ms / 1000).toFixed(1), "s"];
}

/** 625 MiB */
export function bytes(value) {
  if (!known(value)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB"];
  let step = 0;
  let size = value;
  while (size >= 1000 && step < units.length - 1) {
    size /= 1024;
    step += 1;
  }
  return `${size < 10 && step > 0 ? size.toFixed(1) : whole.format(size)} ${units[step]}`;
}

/** The time of day where the reader is: 14:03:22 */
export function clock(when) {
  const time = new Date(when);
  return Number.isNaN(time.getTime()) ? NOTHING : time.toLocaleTimeString("en-GB");
}

/** How long before `now` (both RFC 3339, of the same clock): 4 s ago */
export function ago(when, now) {
  const seconds = Math.max(0, (Date.parse(now) - Date.parse(when)) / 1000);
  return Number.isNaN(seconds) ? NOTHING : `${span(seconds)} ago`;
}

/** 4 s, 3 min, 5 h, 12 days */
export function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 48 * 3600 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
}

/** sha256:0123456789ab… as its first twelve digits, which name it on the wire too. */
export const short = (digest) => String(digest).replace(/^sha256:/, "").slice(0, 12);

/** A verdict's reason without what was judged and without the figures, which stand beside it. */
export const brief = (reason) => String(reason ?? "").replace(/^(head|body): /, "").split(": MRR@")[0];
