"""The command, as a process: what it prints and writes, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.command import main
from services.command.evaluation.example import write_example
from services.command.evaluation.folder import read_folder
from services.command.evaluation.standard_library import Pair, split
from tests.services.command.evaluation.fakes import (
    DOCUMENTS,
    FakeFleet,
    fake_fleet,
    shop,
    write_folder,
)

ROOT = Path(__file__).resolve().parents[4]
COMMAND = (sys.executable, "-m", "services.command.evaluation")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


async def ended(*words: str | Path, cwd: Path, **more: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a run."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, words),
        cwd=cwd,
        env=environment(**more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def fleet(short_path: Path) -> AsyncIterator[FakeFleet]:
    """A real broker, and the fake fleet on it."""
    url = f"ipc://{short_path / 'state' / 'bus'}"
    words = [sys.executable, "-m", "bus", "--url", url, "--state", str(short_path / "state")]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"ready" in await process.stdout.readline()
    try:
        async with fake_fleet(url) as fleet:
            yield fleet
    finally:
        process.terminate()
        await process.communicate()


async def test_it_prints_a_table_or_json_and_writes_runs_and_feedback(
    fleet: FakeFleet, short_path: Path
) -> None:
    shop(short_path / "shop")
    code, out, err = await ended(
        "shop", "--state", "state", "--out", "run.trec", "--feedback", "given.jsonl", cwd=short_path
    )
    assert code == 0, err
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "shop, split test: 5 documents, 30 queries" in rows
    assert any(row.startswith("auto nDCG@10 1.0000 +") and row.endswith("better") for row in rows)
    assert "recall@100 1.0000 +0.0000 +0.0000 to +0.0000 0/0 no difference proven" in rows
    assert "Documents: 5 embedded now, 0 from the cache" in out
    assert [name for name in sorted(os.listdir(short_path)) if name.startswith("run")] == [
        "run.auto.trec",
        "run.base.trec",
    ]
    first = (short_path / "run.auto.trec").read_text().splitlines()[0].split()
    assert first[:4] == ["refunds-0", "Q0", "refunds", "1"]
    pieces = [json.loads(line) for line in (short_path / "given.jsonl").read_text().splitlines()]
    assert len(pieces) == 30
    assert "says nothing on the split test" in err
    assert pieces[0]["domain"] == "shop"
    assert pieces[0]["relevant"] == [DOCUMENTS["refunds"]]

    code, out, err = await ended("shop", "--state", "state", "--json", "--limit", 7, cwd=short_path)
    report = json.loads(out)
    assert (code, report["queries"], report["embedded"]) == (0, 7, 0)
    assert [run["model"] for run in report["runs"]] == ["base", "auto"]
    assert "ndcg_cut" in report["definitions"]["ndcg"]


async def test_a_terminal_sees_how_far_it_is(fleet: FakeFleet, short_path: Path) -> None:
    code, out, err = await ended(
        shop(short_path / "shop"), "--state", "state", cwd=short_path, FORCE_COLOR="1"
    )
    assert code == 0
    assert "documents embedded" in err
    assert "5/5" in err
    assert "documents embedded" not in out


async def test_what_the_fleet_cannot_do_is_a_sentence_and_an_exit_code(
    fleet: FakeFleet, short_path: Path
) -> None:
    shop(short_path / "shop")
    unknown = ("shop", "--state", "state", "--model", "nope")
    absent = ("shop", "--state", "elsewhere")
    (code, out, err), (none, _, why) = await asyncio.gather(
        ended(*unknown, cwd=short_path), ended(*absent, cwd=short_path)
    )
    assert (code, out) == (2, "")
    assert "skill 'nope' is not installed" in err
    assert none == 3
    assert "no fleet runs at" in why

    fleet.fail_after = 0
    code, _, err = await ended("shop", "--state", "state", cwd=short_path)
    assert code == 1
    assert "the encoder is on fire" in err
    assert "Traceback" not in err


async def test_an_interrupted_run_says_so_and_the_next_goes_on(
    fleet: FakeFleet, short_path: Path
) -> None:
    shop(short_path / "shop")
    corpus = short_path / "shop" / "corpus.jsonl"
    with corpus.open("a") as file:
        file.writelines(f'{{"_id": "n{n}", "text": "number {n}"}}\n' for n in range(1500))
    fleet.silent_after = 17  # the probe, and the first block of 1,024
    words = (*COMMAND, "shop", "--state", "state")
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=short_path,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    cache = short_path / "state" / "evaluation"
    while not list(cache.rglob("*.npy")):
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert not list(cache.rglob("*.part"))

    fleet.silent_after = None
    code, told, err_ = await ended("shop", "--state", "state", cwd=short_path)
    assert code == 0, err_
    assert "Documents: 481 embedded now, 1,024 from the cache" in told


REFUSED = {
    "no folder": (["absent"], "absent is no folder"),
    "no word": ([], "FOLDER"),
    "no split": (["shop", "--split", "dev"], "dev.tsv does not exist; there are the splits test"),
    "k": (["shop", "--k", "0"], "--k is from 1 to 1,000, not 0"),
    "limit": (["shop", "--limit", "0"], "--limit is at least 1, not 0"),
    "model": (["shop", "--model", "a+b+c+d"], "at most 3 may stack"),
    "domain alone": (["shop", "--domain", "x"], "--domain goes with --feedback"),
    "domain": (["shop", "--feedback", "f", "--domain", "A b"], "a domain is named"),
    "feedback nowhere": (["shop", "--feedback", "no/f"], "the folder no does not exist"),
    "out nowhere": (["shop", "--out", "no/run"], "the folder no does not exist"),
    "out with spaces": (["spaced", "--out", "run"], "the id 'd 1' has a space in it"),
    "out a folder": (["shop", "--out", "spaced"], "spaced is a folder: name a file"),
    "feedback a folder": (["shop", "--feedback", "spaced"], "spaced is a folder: name a file"),
    "feedback its own": (["shop", "--feedback", "shop/queries.jsonl"], "is a part of what is"),
    "out its own": (["shop", "--out", "shop/qrels/test.tsv"], "is a part of what is measured"),
    "both one file": (["shop", "--out", "f", "--feedback", "f"], "each needs its own"),
    "example exists": (["--example", "shop"], "shop is there already"),
    "example feedback": (["--example", "new", "--feedback", "-1"], "--feedback is 0 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_needs_no_fleet(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, sentence = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    shop(tmp_path / "shop")
    write_folder(tmp_path / "spaced", {"d 1": "t"}, {"q": "t"}, [("q", "d 1", 1)])
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *words])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert sentence in " ".join(said.err.split())
    assert said.out == ""


PAIRS = tuple(
    Pair(
        name=f"mod.f{number}",
        query=f"Does the thing of number {number}.",
        passage=f"mod.f{number}()",
    )
    for number in range(40)
)


def test_the_example_is_a_folder_with_two_halves(tmp_path: Path) -> None:
    halves = write_example(tmp_path / "made", PAIRS)
    assert halves == split(PAIRS)
    test, train = (read_folder(tmp_path / "made", name) for name in ("test", "train"))
    assert [query.text for query in test.queries] == [pair.query for pair in halves.held_out]
    assert [query.text for query in train.queries] == [pair.query for pair in halves.feedback]
    assert test.ids == [pair.name for pair in PAIRS]
    for query in (*test.queries, *train.queries):
        (number,) = query.relevance
        assert f"docstring:{test.ids[number]}" == query.id


async def test_the_example_comes_with_feedback_of_the_training_half(
    fleet: FakeFleet, short_path: Path
) -> None:
    code, out, err = await ended(
        "--example", "stdlib", "--state", "state", "--feedback", 40, cwd=short_path
    )
    assert code == 0, err
    assert "stdlib/feedback.jsonl: 40 pieces of feedback" in out
    train = read_folder(short_path / "stdlib", "train", 40)
    held_out = {query.text for query in read_folder(short_path / "stdlib").queries}
    lines = (short_path / "stdlib" / "feedback.jsonl").read_text().splitlines()
    pieces = [json.loads(line) for line in lines]
    assert [piece["query"] for piece in pieces] == [query.text for query in train.queries]
    assert not {piece["query"] for piece in pieces} & held_out
    assert {piece["domain"] for piece in pieces} == {"python-stdlib"}
    assert all(9 <= len(piece["irrelevant"]) <= 10 for piece in pieces)

    code, _, err = await ended("--example", "other", "--state", "nowhere", cwd=short_path)
    assert code == 3
    assert not (short_path / "other").exists()


def test_help_needs_neither_torch_nor_the_bus() -> None:
    code = (
        "import sys\n"
        "from services.command import main\n"
        "try:\n    main(['evaluate', '--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'zmq', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "corpus.jsonl" in done.stdout
