"""`consonance evaluate --example FOLDER`, or `python -m` this module: a folder to try it on.

It is made of this Python's standard library: a document is a function's signature, a query the
first sentence of its docstring. Half of the queries are held out (`qrels/test.tsv`); of the other
half (`qrels/train.tsv`) `feedback.jsonl` holds what people would say who searched by keywords: the
right signature, and those of the first ten that were shown and wrong.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from services.command.errors import DONE, Failed, InputRefused
from services.command.evaluation.standard_library import Pair, pairs, split
from services.command.kit import group, say

__all__ = ["DOMAIN", "Keywords", "app", "write_example"]

DOMAIN: Final = "python-stdlib"
"""Of the feedback, and so the name of the skill that comes of it."""

PIECES: Final = 512
SHOWN: Final = 10

_EXAMPLES = f"""
Examples:

    consonance evaluate --example ./stdlib
        documents are the signatures of this Python's standard library,
        queries the first sentences of its docstrings, half of them held out

    consonance evaluate ./stdlib
    consonance feedback ./stdlib/feedback.jsonl
        what people would say, of queries of the other half

    consonance skills list
    consonance evaluate ./stdlib --model auto {DOMAIN}
        once a skill is there
"""

app = group("--example", "Write a folder to try this on.", _EXAMPLES)


@app.default
def example(folder: Path, /, *, feedback: int = PIECES) -> int:
    """Write a folder to try this on: corpus, queries, judgements, and feedback for the fleet.

    Parameters
    ----------
    folder
        A folder that is empty or not there
    feedback
        Pieces of feedback
    """
    if feedback < 1:
        raise InputRefused(f"--feedback is at least 1, not {feedback}")
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRefused(f"{folder} is there already: name a folder that is empty or not there")
    try:
        found = pairs()
    except RuntimeError as error:  # its child process died, or took too long
        raise Failed(str(error)) from error
    pieces = write_example(folder, found, feedback)
    halves = split(found)
    say(
        f"{folder}: {len(found):,} documents, {len(halves.held_out):,} queries to test with, "
        f"{len(halves.feedback):,} to train with, {pieces:,} pieces of feedback"
    )
    return DONE


def write_example(folder: Path, found: Sequence[Pair], feedback: int = PIECES) -> int:
    """Write the folder of `found`; returns how many pieces of feedback there are."""
    halves = split(tuple(found))
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    # In the order of the names, so that no place in a file tells to which half a pair belongs.
    _write(
        folder / "corpus.jsonl",
        ({"_id": it.name, "title": "", "text": it.passage} for it in found),
    )
    _write(folder / "queries.jsonl", ({"_id": _query(it), "text": it.query} for it in found))
    for name, half in (("test", halves.held_out), ("train", halves.feedback)):
        lines = ["query-id\tcorpus-id\tscore", *(f"{_query(it)}\t{it.name}\t1" for it in half)]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    given = halves.feedback[:feedback]
    _write(folder / "feedback.jsonl", _pieces(given, found))
    return len(given)


def _query(pair: Pair) -> str:
    return f"docstring:{pair.name}"


def _pieces(given: Iterable[Pair], found: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    passages = [pair.passage for pair in found]
    search = Keywords(passages)
    for pair in given:
        wrong = [text for text in search.first(pair.query, SHOWN) if text != pair.passage]
        yield {
            "query": pair.query,
            "relevant": [pair.passage],
            "irrelevant": wrong,
            "domain": DOMAIN,
            "served": [],  # by no skill: the base model is to be judged
        }


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for line in lines:
            file.write(msgspec.json.encode(line) + b"\n")


class Keywords:
    """A search by words, as sites have it: cosine of words weighted by log(n / frequency)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        counts = [Counter(_words(text)) for text in texts]
        frequency = Counter(word for count in counts for word in count)
        self._weight = {word: math.log(len(texts) / n) + 1e-9 for word, n in frequency.items()}
        self._lists: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, count in enumerate(counts):
            weights = {word: n * self._weight[word] for word, n in count.items()}
            length = math.sqrt(sum(weight**2 for weight in weights.values()))
            for word, weight in weights.items():
                self._lists[word].append((number, weight / length))

    def first(self, query: str, most: int) -> list[str]:
        """The texts that share most with `query`, best first; fewer where few share a word."""
        scores: dict[int, float] = defaultdict(float)
        for word, count in Counter(_words(query)).items():
            for number, weight in self._lists.get(word, ()):
                scores[number] += count * self._weight[word] * weight
        order = sorted(scores, key=lambda number: (-scores[number], number))
        return [self._texts[number] for number in order[:most]]


def _words(text: str) -> list[str]:
    """Letters only, `readLine` and `read_line` as two words, in small letters."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word.lower() for word in re.findall(r"[A-Za-z]{2,}", apart)]


if __name__ == "__main__":
    from services.command import main

    main(["evaluate", "--example", *sys.argv[1:]])
