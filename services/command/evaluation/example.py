"""`consonance evaluate --example FOLDER`, or `python -m` this module: a folder to try it on.

It is made of this Python's standard library: a document is a function's signature, a query the
first sentence of its docstring. Half of the queries are held out (`qrels/test.tsv`); the other half
(`qrels/train.tsv`) is what feedback is drawn from: `feedback.jsonl` is what people would say who
saw the first ten that the fleet's base model finds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.command.errors import DONE, Failed, InputRefused
from services.command.evaluation.standard_library import Pair, Split, pairs, split
from services.command.kit import group, run, say
from services.command.place import HERE, Place, connected

__all__ = ["DOMAIN", "app", "write_example"]

DOMAIN: Final = "python-stdlib"
"""Of the feedback, and so the name of the skill that comes of it."""

PIECES: Final = 512

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
def example(folder: Path, /, *, feedback: int = PIECES, at: Place = HERE) -> int:
    """Write a folder to try this on: corpus, queries, judgements, and feedback for the fleet.

    Parameters
    ----------
    folder
        A folder that is empty or not there
    feedback
        Pieces of feedback; 0 needs no fleet
    """
    if feedback < 0:
        raise InputRefused(f"--feedback is 0 or more, not {feedback}")
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRefused(f"{folder} is there already: name a folder that is empty or not there")
    if feedback:
        run(_answers(at))
    try:
        found = pairs()
    except RuntimeError as error:  # its child process died, or took too long
        raise Failed(str(error)) from error
    halves = write_example(folder, found)
    say(
        f"{folder}: {len(found):,} documents, {len(halves.held_out):,} queries to test with, "
        f"{len(halves.feedback):,} to train with"
    )
    if feedback:
        file = folder / "feedback.jsonl"
        say(f"{file}: {_write_feedback(file, folder, feedback, at):,} pieces of feedback")
    return DONE


async def _answers(at: Place) -> None:
    """Raise `NoFleet` before anything is written."""
    async with connected(at):
        pass


def _write_feedback(file: Path, folder: Path, most: int, at: Place) -> int:
    from services.command.evaluation.asking import evaluated
    from services.command.evaluation.feedback import write_feedback
    from services.command.evaluation.folder import read_folder

    collection = read_folder(folder, "train", most)
    ranked = run(evaluated(collection, ("base",), at)).ranked["base"]
    return write_feedback(file, collection, ranked, DOMAIN)


def write_example(folder: Path, found: Sequence[Pair]) -> Split:
    """Write the folder of `found`; its two halves."""
    halves = split(tuple(found))
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(
        folder / "corpus.jsonl",
        ({"_id": it.name, "title": "", "text": it.passage} for it in found),
    )
    # As they were shuffled: the first so many of a half are a sample of it.
    queries = (*halves.held_out, *halves.feedback)
    _write(folder / "queries.jsonl", ({"_id": _query(it), "text": it.query} for it in queries))
    for name, half in (("test", halves.held_out), ("train", halves.feedback)):
        lines = ["query-id\tcorpus-id\tscore", *(f"{_query(it)}\t{it.name}\t1" for it in half)]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    return halves


def _query(pair: Pair) -> str:
    return f"docstring:{pair.name}"


def _write(path: Path, lines: Iterable[dict[str, str]]) -> None:
    with path.open("wb") as file:
        for line in lines:
            file.write(msgspec.json.encode(line) + b"\n")


if __name__ == "__main__":
    from services.command import main

    main(["evaluate", "--example", *sys.argv[1:]])
