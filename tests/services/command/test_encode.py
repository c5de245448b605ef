"""Vectors of lines: whole files in every form, or none, in bounded memory."""

from __future__ import annotations

import json
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import DIM, FakeFleet, vectors_of

TEXTS = tuple(f"line {n}" for n in range(300))


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def left(folder: Path) -> set[str]:
    """What lies in a folder besides the input."""
    return {file.name for file in folder.iterdir()} - {"lines.txt"}


def test_a_numpy_file_has_a_row_a_line_in_their_order(on: Run, lines: Path, tmp_path: Path) -> None:
    code, out, err = on("encode", lines, "--out", "v.npy")

    assert (code, out) == (0, "")
    assert err.startswith("consonance: 300 texts, 6 dimensions in v.npy (300 by the base model; ")
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.dtype("<f4")
    assert (found == vectors_of(TEXTS)).all()
    assert left(tmp_path) == {"v.npy"}


def test_json_lines_say_what_made_each(
    on: Run, lines: Path, tmp_path: Path, fleet: FakeFleet
) -> None:
    code, out, _ = on("encode", lines, "--out", "v.jsonl", "--model", "bank+slang", "--json")

    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == list(TEXTS)
    assert np.array_equal(
        np.array([row["embedding"] for row in rows], np.float32), vectors_of(TEXTS)
    )
    assert rows[0]["skills"][0] == {
        "name": "bank",
        "version": 1,
        "digest": fleet.cards[0].digest,
        "score": 1.0,
    }
    summary = json.loads(out)
    assert summary.pop("seconds") >= 0
    assert summary == {
        "texts": 300,
        "dim": DIM,
        "model": "tiny",
        "skills": {"bank@1": 300, "slang@2": 300},
        "base": 0,
        "tokens": 300,
        "out": "v.jsonl",
    }
    assert {(one.route, one.skills, one.role) for one in fleet.asked} == {
        ("named", ("bank", "slang"), "query")
    }


def test_parquet_has_columns(on: Run, lines: Path, tmp_path: Path, fleet: FakeFleet) -> None:
    options = ("--role", "document", "--model", "base", "--form", "parquet")
    assert on("encode", lines, "--out", "v.pq", *options).code == 0

    table = pq.read_table(tmp_path / "v.pq")
    assert table.column_names == ["text", "embedding", "skills", "reason"]
    assert table["text"].to_pylist() == list(TEXTS)
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), vectors_of(TEXTS))
    assert set(table["reason"].to_pylist()) == {"no_skills"}
    assert table.schema.metadata[b"consonance.model"] == b"tiny"
    assert {(one.route, one.role) for one in fleet.asked} == {("base", "document")}


def test_parquet_rows_go_out_by_the_group(
    on: Run, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.command.sinks.ROW_GROUP", 128)
    assert on("encode", lines, "--out", "v.parquet").code == 0
    found = pq.ParquetFile(tmp_path / "v.parquet")
    sizes = [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)]
    assert sizes == [128, 128, 44]


def test_blank_lines_and_foreign_line_ends_count(on: Run, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes("\ufeffZürich\r\n\r\nend".encode())
    assert on("encode", "lines.txt", "--out", "v.npy").code == 0
    found = np.load(tmp_path / "v.npy")
    assert (found == vectors_of(("Zürich", "", "end"))).all()


def test_standard_input_to_standard_output_as_it_comes(start: Start, fleet: FakeFleet) -> None:
    process = start("encode", "--state", fleet.state)
    assert process.stdin is not None
    assert process.stdout is not None
    for text in ("first", "second"):
        process.stdin.write(f"{text}\n".encode())
        process.stdin.flush()
        row = json.loads(process.stdout.readline())  # before the next is given
        assert row["text"] == text
        assert len(row["embedding"]) == DIM
    process.stdin.close()
    assert process.wait(20) == 0


def test_whoever_interrupts_finds_nothing_half_written(
    start: Start, fleet: FakeFleet, tmp_path: Path
) -> None:
    process = start("encode", "-", "--out", "v.npy", "--state", fleet.state)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"line\n" * 200)
    process.stdin.flush()
    ends = time.monotonic() + 20
    while sum(len(one.texts) for one in fleet.asked) < 200:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert len(left(tmp_path)) == 1, "it is written beside"

    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130
    assert process.stderr.read() == b"consonance: interrupted\n"
    assert left(tmp_path) == set()


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    on: Run, lines: Path, tmp_path: Path
) -> None:
    (tmp_path / "v.npy").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("v.npy", "v.jsonl", "v.parquet"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            code, _, err = on("encode", lines, "--out", name, "--force")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 1
        assert err.startswith("consonance: cannot go on: ")
        assert "File too large" in err
        assert err.count("\n") == 1
    assert left(tmp_path) == {"v.npy"}
    assert (tmp_path / "v.npy").read_text() == "old"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("encode nowhere.txt", "nowhere.txt cannot be read: No such file"),
        ("encode .", ". cannot be read: it is a folder"),
        ("encode lines.txt --out v.xyz", "the form of v.xyz is unknown"),
        ("encode lines.txt --out no/v.npy", "the folder no does not exist"),
        ("encode lines.txt --out old.npy", "old.npy exists; --force replaces a file"),
        ("encode lines.txt --out folder.npy --force", "folder.npy is there and is no file"),
        ("encode lines.txt --form npy", "standard output takes JSON lines; npy needs --out FILE"),
        ("encode lines.txt --model a+b+c+d", "--model names 4 skills: at most 3"),
        ("encode lines.txt --model a+", "not 'a+'"),
        ("encode lines.txt --model nobody --out v.npy", "skill 'nobody' is unknown"),
        ("encode lines.txt --role both", "both"),
        ("encode empty.txt --out v.npy", "there is no line to encode"),
        ("encode bytes.txt --out v.npy", "line 3 of bytes.txt is not UTF-8"),
        ("encode long.txt --out v.npy", "line 2 of long.txt has more than 65,536 bytes"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    on: Run, lines: Path, tmp_path: Path, words: str, why: str
) -> None:
    (tmp_path / "old.npy").write_text("old")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"a\nb\n\xff\nc\n")
    (tmp_path / "long.txt").write_text("a\n" + "b" * 70_000 + "\n")
    before = left(tmp_path)

    code, out, err = on(*words.split())

    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert left(tmp_path) == before
    assert (tmp_path / "old.npy").read_text() == "old"


def test_where_nobody_answers_it_ends_in_time(
    on: Run, fleet: FakeFleet, lines: Path, tmp_path: Path
) -> None:
    fleet.silent = True
    code, out, err = on("encode", lines, "--out", "v.npy", "--timeout", 0.3)
    assert (code, out) == (1, "")
    assert "no answer within 300 ms" in err or "nobody answered encode.requested" in err
    assert err.count("\n") == 1
    assert left(tmp_path) == set()


def test_the_longest_line_is_the_one_that_the_fleet_takes(
    on: Run, fleet: FakeFleet, tmp_path: Path
) -> None:
    (fleet.state / "fleet").mkdir()
    (fleet.state / "fleet/settings.toml").write_text("[router]\nmax_text_bytes = 10\n")
    (tmp_path / "a.txt").write_text("0123456789\r\n")
    (tmp_path / "b.txt").write_text("01234567890\n")
    assert on("encode", "a.txt", "--out", "a.npy").code == 0
    assert "line 1 of b.txt has more than 10 bytes" in on("encode", "b.txt", "--out", "b.npy").err
