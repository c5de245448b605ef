"""A benchmark's command: what it prints and writes, and which exit code says what."""

import argparse
import asyncio
import errno
import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.kit.command import (
    Benchmark,
    Measure,
    add_output,
    add_seeds,
    seeds_of,
    sizes_of,
)

TOY = Benchmark(name="toy", about="A toy.", wrong=(OSError,), failed=(TimeoutError, RuntimeError))


def given(*words: str) -> argparse.Namespace:
    parser = TOY.parser()
    add_output(parser)
    return parser.parse_args(words)


def measuring(found: object) -> Measure:
    """Finds this, or raises it."""

    def measure(given: argparse.Namespace, console: Console) -> dict[str, object]:
        console.print("a table")
        if isinstance(found, BaseException):
            raise found
        return {"found": found}

    return measure


def test_the_object_is_the_last_line_and_a_file_made_with_its_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "folder" / "found.json"
    options = given("--json", "--out", str(file))

    assert TOY.perform(options, measuring(3), out=options.out) == 0

    assert capsys.readouterr().out.splitlines() == ["a table", '{"found": 3}']
    assert json.loads(file.read_text("utf-8")) == {"found": 3}


def test_what_was_wanted_and_missed_is_told_after_everything_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missed(found: dict[str, object]) -> bool:
        return found["found"] == 3

    assert TOY.perform(given("--json"), measuring(3), missed=missed) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"found": 3}
    assert TOY.perform(given(), measuring(4), missed=missed) == 0


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (FileNotFoundError("no such folder"), 2, "benchmarks.toy: no such folder\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "costs.json"),
            2,
            "benchmarks.toy: cannot use costs.json: No such file\n",
        ),
        (RuntimeError("it ended"), 1, "benchmarks.toy: it ended\n"),
        (TimeoutError("no verdict"), 1, "benchmarks.toy: no verdict\n"),  # also an OSError
        (KeyboardInterrupt(), 130, ""),
        (asyncio.CancelledError(), 130, ""),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing_behind(
    error: BaseException, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"

    assert TOY.perform(given("--json"), measuring(error), out=file) == code

    assert capsys.readouterr() == ("a table\n", says)
    assert not file.exists()


def test_a_mistake_in_the_benchmark_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        TOY.perform(given(), measuring(ZeroDivisionError()))


def test_a_termination_lets_what_runs_end_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []

    async def work(given: argparse.Namespace, console: Console) -> dict[str, object]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        finally:
            ended.append("in order")
        return {}

    assert TOY.perform(given(), work) == 130
    assert ended == ["in order"]


def test_sizes_and_seeds_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    parser = TOY.parser()
    parser.add_argument("--feedback")
    add_seeds(parser, 3, "runs")

    options = parser.parse_args(["--feedback", "64,256", "--first-seed", "7"])
    assert sizes_of(parser, options) == [64, 256]
    assert list(seeds_of(options)) == [7, 8, 9]
    with pytest.raises(SystemExit) as ended:
        sizes_of(parser, parser.parse_args(["--feedback", "many"]))
    assert ended.value.code == 2
    assert "numbers with commas, not 'many'" in capsys.readouterr().err
