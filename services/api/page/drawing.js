/** The drawings: a bar of notches, an interval on an axis, a run of figures, two tones that meet. */

import { s } from "./dom.js";
import { signed } from "./format.js";

/** An open batch: as many notches as it takes, those filled stand taller; in fours, as a bar of sixteenths. */
export function notches(filled, size, label) {
  const slots = Math.min(Math.max(size, 1), 64);
  const on = size > slots ? Math.floor((filled * slots) / size) : filled;
  const at = (index) => 4 + index * 10 + Math.floor(index / 4) * 7;
  const width = at(slots - 1) + 8;
  const marks = Array.from({ length: slots }, (_, index) =>
    s("rect", {
      class: index < on ? (index === on - 1 ? "on last" : "on") : "off",
      x: at(index) - 2,
      y: index < on ? 2 : 24,
      width: 4,
      height: index < on ? 36 : 14,
      rx: 2,
    }),
  );
  return s(
    "svg",
    { class: "notches", viewBox: `0 0 ${width} 40`, role: "img", "aria-label": label },
    s("line", { class: "ground", x1: 0, x2: width, y1: 39.5, y2: 39.5 }),
    ...marks,
  );
}

/** The ends of an axis that holds zero and every given interval, with some air. */
export function extent(verdicts) {
  const values = verdicts.flatMap(({ gain, low, high }) => [gain, low, high]).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const air = Math.max((high - low) * 0.08, 0.005);
  return [low - air, high + air];
}

/** Round values on such an axis, zero among them; three or four. */
function ticks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((width) => width >= rough);
  const first = Math.ceil(low / step);
  const found = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, n) => (first + n) * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

/** The axis itself, with its figures. */
export function scale([low, high]) {
  const { values, digits } = ticks([low, high]);
  const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const air = (high - low) / 25; // no figure hangs over the edge
  const text = (value) => (Math.abs(value) < 1e-9 ? "0" : signed(value, digits));
  return s(
    "svg",
    { class: "scale", height: 18, "aria-hidden": "true" },
    ...values.filter((value) => value - low > air && high - value > air).map((value) => s("text", { x: at(value), y: 12, "text-anchor": "middle" }, text(value))),
  );
}

/** A gain with its interval, and zero; in per cent of the width, so that nothing is distorted. */
export function interval({ gain, low, high }, [least, most], { good, label }) {
  const at = (value) => `${(100 * (value - least)) / (most - least)}%`;
  const drawn = [gain, low, high].every(Number.isFinite);
  return s(
    "svg",
    { class: good ? "interval good" : "interval", role: "img", "aria-label": label, height: 22 },
    s("line", { class: "axis", x1: "0%", x2: "100%", y1: 11, y2: 11 }),
    s("line", { class: "zero", x1: at(0), x2: at(0), y1: 1, y2: 21 }),
    drawn && s("line", { class: "range", x1: at(low), x2: at(high), y1: 11, y2: 11 }),
    drawn && s("circle", { class: "gain", cx: at(gain), cy: 11, r: 5 }),
  );
}

/** A small run of figures; several lines share one scale. Null leaves a gap. */
export function spark(lines, label) {
  const [width, height] = [300, 44];
  const highest = Math.max(1e-9, ...lines.flatMap(({ values }) => values.filter(Number.isFinite)));
  const drawn = lines.map(({ values, kind }) => {
    const x = (index) => (values.length < 2 ? width : (index * width) / (values.length - 1));
    const y = (value) => height - 2 - (value / highest) * (height - 6);
    let path = "";
    let begun = false;
    let first = 0;
    values.forEach((value, index) => {
      if (!Number.isFinite(value)) {
        begun = false;
        return;
      }
      if (!begun) first = index;
      path += `${begun ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      begun = true;
    });
    if (kind === "area" && path) path += `L${width} ${height}L${x(first).toFixed(1)} ${height}Z`;
    return s("path", { class: kind, d: path || "M0 0", "vector-effect": "non-scaling-stroke" });
  });
  return s(
    "svg",
    {
      class: "spark",
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    ...drawn,
  );
}

/** Two tones, apart on the left by `discord` (0 to 1), in unison on the right; `width` in pixels. */
export function tones(discord, width) {
  const [height, turns] = [96, Math.max(4, Math.round(width / 105))];
  const path = (shift) => {
    const points = [];
    for (let x = 0; x <= width; x += 6) {
      const along = x / width;
      const apart = (0.12 + 0.88 * discord) * (1 - along) ** 2;
      const phase = 2 * Math.PI * turns * along + shift * apart * 2.6;
      const swell = 0.55 + 0.45 * Math.sin(Math.PI * Math.min(1, along * 1.15));
      points.push(`${x} ${(height / 2 + Math.sin(phase) * swell * (height / 2 - 4)).toFixed(1)}`);
    }
    return `M${points.join("L")}`;
  };
  return s(
    "svg",
    { class: "tones", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "other", d: path(-1), "vector-effect": "non-scaling-stroke" }),
    s("path", { class: "one", d: path(1), "vector-effect": "non-scaling-stroke" }),
  );
}
