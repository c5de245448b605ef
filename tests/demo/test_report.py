"""The report and the verdict that it carries."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from demo.report import page, write_report
from demo.results import Example, Mark, Measured, Results
from demo.screen import Screen


def results(*, shift: int = 1, published: bool = True) -> Results:
    """Held-out ranks 1 to 20; learning brings each query `shift` places up."""
    before = np.tile(np.arange(1, 21), 20)
    found = Results(python="3.11.0", pairs=1000, feedback=64, asked=50, p50_ms=12.0)
    found.measured.append(Measured("base", None, before, 0.0))
    if published:
        after = np.clip(before - shift, 1, None)
        found.measured.append(Measured("head", "python-stdlib@1", after, 1.0))
        found.measured.append(Measured("auto", None, after, 0.8))
    found.marks = [Mark(0.5, "judged"), Mark(1.0, "clash"), Mark(9.0, "head", "python-stdlib@1")]
    found.examples = [Example("Parse <this>.", "a.b(x: 'int' = 3)", 7, 1)]
    return found


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_gain_whose_interval_excludes_zero_passes() -> None:
    assert results().failure() is None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (results(published=False), "nothing was published"),
        (results(shift=0), "includes zero"),
        (results(shift=-1), "includes zero"),
    ],
)
def test_the_demo_fails_and_says_why(found: Results, says: str) -> None:
    assert says in str(found.failure())
    assert str(found.failure()) in page(found).replace("&#x27;", "'")


def test_a_failed_request_fails_the_demo() -> None:
    found = results()
    found.failed = 2
    assert "2 requests failed" in str(found.failure())


def test_the_page_stands_alone_and_escapes_what_it_quotes() -> None:
    html = page(results())
    tags = _Tags()
    tags.feed(html)

    assert tags.links == []
    assert "Parse &lt;this&gt;." in html
    assert html.count("<svg") == html.count("</svg>") == 3
    assert not re.search(r"\b(nan|inf)\b", html)


def test_the_folder_holds_page_and_figures_and_ignores_itself(tmp_path: Path) -> None:
    path = write_report(results(), tmp_path / "report")

    figures = json.loads((path.parent / "results.json").read_text("utf-8"))
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [row["label"] for row in figures["measured"]] == ["base", "head", "auto"]
    assert figures["failure"] is None
    assert (path.parent / ".gitignore").read_text("utf-8") == "*\n"


def test_the_table_fits_a_narrow_terminal_with_whole_figures() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    found = results()
    Screen(console).table(found)
    text = console.export_text()

    recall, mrr = found.gains(found.measured[1])
    for gain in (recall, mrr):
        assert f"({gain.mean:+.3f})" in text
        assert f"{gain.low:+.3f} to {gain.high:+.3f}" in text
    assert "recall@1 (gain)" in text
