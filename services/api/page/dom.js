/** Elements from data. Whatever the fleet says becomes a text node: nothing is ever parsed as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; `attributes` with null, undefined or false are left out. */
export function h(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, tag), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  const present = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...present); // strings become text nodes
  return element;
}

/** Text for screen readers alone. */
export const aside = (text) => h("span", { class: "aside" }, text);

/** The first of many, and the rest behind a line that can be opened. */
export function folded(items, shown, summary, tag = "div") {
  const rest = items.slice(shown);
  if (!rest.length) return items;
  const inside = h("details", { "data-key": "rest" }, h("summary", {}, summary(rest.length)), h(tag, { class: "rest" }, ...rest));
  return [...items.slice(0, shown), inside];
}

/**
 * Make the children of `place` equal to `fresh` by changing as little as possible, so that focus, selections,
 * opened details and transitions outlive a refresh. Children with a `data-key` are followed when they move.
 */
export function patch(place, fresh) {
  const keyed = new Map();
  for (const child of place.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = place.firstChild;
  for (const next of fresh) {
    const key = keyOf(next);
    const match = key ? keyed.get(key) : at;
    if (match && keyOf(match) === key && match.nodeName === next.nodeName) {
      if (match === at) at = at.nextSibling;
      else place.insertBefore(match, at);
      merge(match, next);
    } else {
      place.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function keyOf(node) {
  return node?.dataset?.key;
}

function merge(old, next) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether details are open is the reader's own doing.
    if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patch(old, [...next.childNodes]);
}
