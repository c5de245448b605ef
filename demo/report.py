"""The one-page report: a single HTML file that needs nothing else, and the figures as JSON."""

from __future__ import annotations

from html import escape
from pathlib import Path

from demo.picture import curve, gains_chart, label_of, timeline
from demo.results import Results
from demo.screen import interval

__all__ = ["page", "write_report"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #e3e7ee; --ground: #fff;
  --base: #98a2b3; --gain: #0b7a75; --clash: #c2410c; --card: #f7f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3442;
  --ground: #12161d; --base: #667085; --gain: #35c2ba; --clash: #fb923c; --card: #1a202a; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 900px; padding: 40px 28px; background: var(--ground);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px }
h2 { font-size: 18px; margin: 38px 0 8px }
p { margin: 6px 0 } .soft { color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px;
  margin: 22px 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; font-size: 14px; color: var(--soft) }
.tile b { display: block; font-size: 23px; color: var(--ink); font-weight: 650 }
svg { width: 100%; height: auto; display: block; font: 13.5px system-ui, sans-serif;
  fill: var(--ink) }
svg .h { font-weight: 650; font-size: 15px } svg .v { text-anchor: end }
svg .t { text-anchor: middle; fill: var(--soft); font-size: 12px }
svg .n { text-anchor: middle; fill: var(--gain); font-size: 12px; font-weight: 650 }
svg line { stroke-width: 1 } svg .grid { stroke: var(--line) } svg .axis { stroke: var(--soft) }
svg .ref { stroke: var(--base); stroke-dasharray: 4 4 }
svg .bar { stroke: var(--gain); stroke-width: 7; opacity: .35; stroke-linecap: round }
svg circle { fill: var(--base) } svg .gain { fill: var(--gain) } svg .refused { fill: var(--clash) }
svg .tick { stroke: var(--base) } svg .tick.clash { stroke: var(--clash) }
svg polyline { fill: none; stroke-width: 2.5 } svg .after { stroke: var(--gain) }
svg .before { stroke: var(--base); stroke-dasharray: 5 4 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 14.5px }
th { text-align: left; color: var(--soft); font-weight: 500 }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.r, th.r { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere }
.up { color: var(--gain) } .down { color: var(--clash) }
"""


def write_report(results: Results, folder: Path) -> Path:
    """Write `index.html` and `results.json` into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / "results.json").write_text(results.to_json() + "\n", encoding="utf-8")
    path = folder / "index.html"
    path.write_text(page(results), encoding="utf-8")
    return path.absolute()


def page(results: Results) -> str:
    """The HTML of the report."""
    failure = results.failure()
    title = (
        "The service got better at the Python standard library by itself"
        if failure is None
        else "The service did not get better"
    )
    parts = [
        f"<h1>{title}</h1>",
        f"<p class=soft>{escape(_summary(results))}</p>",
        "" if failure is None else f"<p class=down>{escape(failure)}.</p>",
        _tiles(results),
        "<h2>Before and after, on queries that were held out</h2>",
        gains_chart(results),
        "<p class=soft>Dot: the figure. Bar: the 95 % interval of the gain over the base model, by "
        "10,000 paired bootstrap samples of the held-out queries. Dashed: the base model.</p>",
        _table(results),
        "<h2>Found within the first k</h2>" + curve(results) if results.final else "",
        "<h2>How it happened</h2>",
        timeline(results),
        _examples(results),
        _method(results),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Consonance: {title}</title><style>{STYLE}</style><body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>\n"
    )


def _summary(results: Results) -> str:
    return (
        f"{results.pairs:,} signatures of Python {results.python}; {results.feedback:,} queries "
        f"given as feedback, {results.base.figures.queries:,} others held out. The vectors of the "
        f"signatures were stored before anything was learned, and were never made again."
    )


def _tiles(results: Results) -> str:
    tiles: list[tuple[str, str]] = []
    if results.final is not None:
        recall, mrr = results.gains(results.final)
        tiles += [
            (f"{mrr.mean:+.3f}", f"MRR@10, at least {mrr.low:+.3f}"),
            (f"{recall.mean:+.3f}", f"recall@1, at least {recall.low:+.3f}"),
        ]
    tiles += [
        (f"{seconds:.0f} s", f"from the last clash to an answer by {name.rpartition('@')[2]}")
        for name, seconds in _first_and_last(results.clock.answering)
    ]
    tiles.append((f"{results.clashes:,}", f"clashes in {results.judged:,} pieces of feedback"))
    tiles.append(
        (f"{results.failed}", f"of {results.asked + results.failed:,} requests failed meanwhile")
    )
    cells = (f"<div class=tile><b>{value}</b>{escape(text)}</div>" for value, text in tiles)
    return f"<div class=tiles>{''.join(cells)}</div>"


def _first_and_last(answering: dict[str, float]) -> list[tuple[str, float]]:
    named = [
        (f"{name.rpartition('@')[0]}@version {name.rpartition('@')[2]}", seconds)
        for name, seconds in answering.items()
    ]
    return named if len(named) < 2 else [named[0], named[-1]]


def _table(results: Results) -> str:
    rows = []
    for it in results.measured:
        recall, mrr = results.gains(it)
        base = it is results.base
        cells = [
            f"{it.figures.recall:.3f}",
            "" if base else interval(recall),
            f"{it.figures.mrr:.3f}",
            "" if base else interval(mrr),
            f"{it.routed:.0%}",
        ]
        rows.append(
            f"<tr><td>{escape(label_of(it.label, it.skill))}</td>"
            + "".join(f"<td class=r>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    heads = ("recall@1", "gain", "MRR@10", "gain", "queries routed")
    head = "<th>route</th>" + "".join(f"<th class=r>{text}</th>" for text in heads)
    return f"<div class=wide><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _examples(results: Results) -> str:
    if not results.examples:
        return ""
    rows = []
    for it in results.examples:
        tone = "up" if it.after < it.before else "down"
        rows.append(
            f"<tr><td>{escape(it.query)}<br><code class=soft>{escape(it.passage)}</code></td>"
            f"<td class='r {tone}'>{it.before} → {it.after}</td></tr>"
        )
    return (
        "<h2>Held-out queries whose answer changed most, for better and for worse</h2><table>"
        "<tr><th>query, and the signature that it should find</th><th class=r>rank</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _method(results: Results) -> str:
    clock = results.clock
    refused = f" The gate refused {len(results.refusals)} cards." if results.refusals else ""
    return (
        "<h2>How it was measured</h2><p>A passage is a signature with its qualified name and no "
        "docstring; its query is the first sentence of the docstring. Functions are split by a "
        "hash of their name. Every query is ranked against all signatures. A piece of feedback "
        "names the right signature, and as irrelevant the wrong ones among the first ten that the "
        "base model ranked. All requests went over the bus, to the fleet that "
        "<code>run_all.py</code> starts."
        f"</p><p>The fleet was ready after {clock.ready:.1f} s and embedded the signatures in "
        f"{clock.passages:.1f} s. It made {results.batches} batches of the clashes.{refused} "
        f"{results.asked:,} single requests were answered while it learned, half of them within "
        f"{results.p50_ms:.0f} ms, 99 % within {results.p99_ms:.0f} ms. All of it took "
        f"{clock.total / 60:.1f} minutes.</p>"
    )
