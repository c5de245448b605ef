// What would keep somebody from using the page without sight, mouse or fine fingers.
() => {
  const flaws = [];
  const all = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  const named = (e) => e.getAttribute("aria-label") || e.textContent.trim();
  for (const e of all("input, select, textarea")) if (!e.labels.length) flaws.push(`no label: ${e.id}`);
  for (const e of all("button, a, summary")) if (!named(e)) flaws.push(`no name: ${e.outerHTML}`);
  for (const e of all("svg, progress")) {
    const hidden = e.closest("[aria-hidden=true]");
    if (!hidden && !e.getAttribute("aria-label")) flaws.push(`no name: ${e.outerHTML.slice(0, 80)}`);
  }
  for (const e of all("button, select, input, textarea, summary")) {
    const { width, height } = e.getBoundingClientRect();
    if (width < 24 || height < 24) flaws.push(`too small to hit: ${named(e)} ${width} ${height}`);
  }
  let level = 0;
  for (const e of all("h1, h2, h3, h4")) {
    const next = Number(e.tagName[1]);
    if (next > level + 1) flaws.push(`heading skips a level: ${e.textContent}`);
    level = next;
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.filter((other) => other === id).length > 1) flaws.push(`twice: ${id}`);
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    const to = e.getAttribute("aria-labelledby") ?? e.getAttribute("aria-describedby");
    if (!document.getElementById(to)) flaws.push(`named by nothing: ${to}`);
  }
  for (const selector of ["main", "body > header", "body > footer", "h1"]) {
    if (all(selector).length !== 1) flaws.push(`not one ${selector}`);
  }
  if (document.querySelector("[tabindex]:not([tabindex='-1'], [tabindex='0'])")) flaws.push("tabindex");
  return flaws;
}
