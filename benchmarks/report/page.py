"""The page, from the results alone: the same results make the same page, byte for byte."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from benchmarks.kit.rounds import Comparison, Report
from benchmarks.kit.show import machine_line, met_sign, number, spread, wanted, with_unit
from benchmarks.report.catalogue import CATALOGUE, Entry, command_of
from benchmarks.report.results import Missing, Result

__all__ = ["loses", "page", "table"]

HEAD = """\
# Benchmarks

How fast it is, beside what people would use instead. What learning brings is told on another page:
[evidence](evidence.md).

The machine is shared with other work; each section says how much of it. So what is compared runs
in the same rounds, one after another, in an order that turns; a ratio is taken round by round, and
the tables have the median of the rounds and their extremes. The peers do the same work, and where
there are answers, theirs are compared with ours. `consonance` is ours. Ratios are of speeds where
more is wanted (≥), and of costs where less is (≤). Missing a target is shown and fails nothing.

```console
$ make bench
```

measures all of it anew and rewrites this page; `python -m benchmarks.report` alone makes it from
the files in `benchmarks/results/`, and with `--only encode,bus` measures those two first.
"""


def page(results: Mapping[str, Result], pictures: Mapping[str, str]) -> str:
    """Markdown. `pictures`: the place of each benchmark's picture, seen from the page."""
    return "\n".join(_lines(results, pictures)).rstrip("\n") + "\n"


def loses(comparison: Comparison) -> bool:
    """Whether what was wanted is missed, or the other one is ahead though no more was wanted."""
    if comparison.met is False:
        return True
    even = 1.0 if comparison.unit == "×" else 0.0
    if comparison.relation == ">=":
        return comparison.ratio < even
    return comparison.relation == "<=" and comparison.ratio > even


def _lines(results: Mapping[str, Result], pictures: Mapping[str, str]) -> Iterator[str]:
    yield HEAD
    reports = [it for it in results.values() if isinstance(it, Report)]
    promised = [(it.name, row) for it in reports for row in it.comparisons if row.met is not None]
    if promised:
        met = sum(row.met is True for _, row in promised)
        yield f"## What is wanted\n\n{met} of {len(promised)} are as wanted.\n"
        yield from table(
            ("", "compared", "against", "found", "wanted", ""),
            "lllrrl",
            [
                (f"[{name}](#{_anchor(name)})", row.what, row.against, *_outcome(row))
                for name, row in promised
            ],
        )
        yield ""
    behind = [(it.name, row) for it in reports for row in it.comparisons if loses(row)]
    if behind:
        yield "## Where we lose\n"
        for name, row in behind:
            promise = f" (wanted: {wanted(row)})" if row.met is False else ""
            whom = f"{_cell(row.what)}, against {_cell(row.against)}"
            yield f"- `{name}`, {whom}: {_found(row)}{promise}"
        yield ""
    for entry in CATALOGUE:
        result = results.get(entry.name, Missing(name=entry.name, failed="it has not been run yet"))
        yield from _section(entry, result, pictures.get(entry.name))


def _section(entry: Entry, result: Result, picture: str | None) -> Iterator[str]:
    about = textwrap.fill(f"**{entry.title}.** {entry.about}", 120, break_on_hyphens=False)
    yield f"## `benchmarks.{entry.name}`\n\n{about}\n"
    if isinstance(result, Missing):
        yield f"Not measured: {_cell(result.failed)}.\n"
        return
    yield f"```console\n$ {command_of(entry)}\n```\n"
    if picture is not None:
        yield f"![{entry.title}: ratios with the target and the spread of each]({picture})\n"
    if result.comparisons:
        yield from table(
            ("compared", "whose", "against", "median", "spread", "wanted", ""),
            "lllrrrl",
            [
                (
                    *(row.what, row.who, row.against),
                    *(_found(row), spread(row.least, row.most), wanted(row), met_sign(row)),
                )
                for row in result.comparisons
            ],
        )
        yield ""
    if result.figures:
        yield from table(
            ("measured", "whose", "median", "spread", "unit"),
            "llrrl",
            [
                (it.what, it.who, number(it.median), spread(it.least, it.most), it.unit)
                for it in result.figures
            ],
        )
        yield ""
    for note in result.notes:
        yield f"- {_cell(note)}"
    if result.notes:
        yield ""
    rounds = sorted({it.rounds for it in result.figures})
    told = [f"{' or '.join(map(str, rounds))} rounds"] if rounds else []
    told += [str(result.machine["date"])] if "date" in result.machine else []
    told += [f"commit {commit}"] if (commit := result.machine.get("commit")) else []
    told += [machine_line(result.machine)]
    told += [f"{name} {version}" for name, version in result.versions.items()]
    yield f"{_cell(', '.join(told))}.\n"


def _outcome(row: Comparison) -> tuple[str, str, str]:
    found = _found(row)
    return (f"**{found}**" if row.met else found, wanted(row), met_sign(row))


def _found(row: Comparison) -> str:
    return with_unit(row.ratio, row.unit)


def table(heads: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown; `align` has an l or an r for each column."""
    rules = {"l": "---", "r": "---:"}
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join(rules[it] for it in align)} |"
    for row in rows:
        yield f"| {' | '.join(_cell(it) for it in row)} |"


def _cell(text: str) -> str:
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _anchor(name: str) -> str:
    return f"benchmarks{name}"
