"""The fenced blocks of the documents, and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks) *$",
    re.MULTILINE | re.DOTALL,
)
_ENDS = {"|", "||", "&&", ";", "&"}
_REDIRECTIONS = {"<", ">", ">>", ">&", "&>"}


@dataclass(frozen=True)
class Snippet:
    """A fenced block."""

    page: Path
    line: int
    kind: str
    """The first word of the fence: `console`; also of one that is written `{ .python }`, which
    those who format Python leave alone."""
    title: str
    body: str

    @property
    def name(self) -> str:
        """Where it stands: `docs/index.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(*kinds: str) -> list[Snippet]:
    """The blocks of these kinds on all pages; all of them where no kind is given."""
    found = [snippet for page in PAGES for snippet in of_text(page, page.read_text("utf-8"))]
    return [snippet for snippet in found if not kinds or snippet.kind in kinds]


def of_text(page: Path, text: str) -> Iterator[Snippet]:
    for match in _FENCE.finditer(text):
        kind, _, rest = match["info"].strip().strip("{} ").removeprefix(".").partition(" ")
        title = re.search(r'title="(.*?)"', rest)
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["body"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start()) + 1
        yield Snippet(page, line, kind, title[1] if title else "", "".join(lines))


def commands(snippet: Snippet) -> Iterator[list[str]]:
    """The simple commands of a block: pipes are taken apart, redirections left out.

    In a `console` block they stand behind `$ ` or `# `, what the commands print stands without.
    """
    for line in _lines(snippet):
        words = list(_split(line))
        start = 0
        for place, word in enumerate([*words, ";"]):
            if word in _ENDS:
                simple = _without_redirections(words[start:place])
                if simple:
                    yield simple
                start = place + 1


def _lines(snippet: Snippet) -> Iterator[str]:
    """Whole command lines: those that go on (`\\`, an open quotation) are joined."""
    held = ""
    for raw in snippet.body.splitlines():
        line = raw
        if snippet.kind == "console" and not held:
            if not raw.startswith(("$ ", "# ")):
                continue
            line = raw[2:]
        held += line + "\n"
        if line.endswith("\\") or not _whole(held):
            continue
        yield held.replace("\\\n", " ")
        held = ""
    assert not held, f"{snippet.name}: the command line does not end: {held}"


def _whole(text: str) -> bool:
    try:
        list(_split(text))
    except ValueError:
        return False
    return True


def _split(text: str) -> Iterator[str]:
    found = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>")
    found.whitespace_split = True
    return iter(found)


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _REDIRECTIONS:
            skip = True
            if kept and kept[-1] in ("1", "2"):
                kept.pop()
        else:
            kept.append(word)
    return kept
