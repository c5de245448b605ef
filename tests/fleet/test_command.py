"""The command on a whole fleet, from its first vectors to a domain that is forgotten."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora.interop import export_safetensors
from services.command import main
from tests.fleet import harness
from tests.fleet.cards import DIM, head

Ask = Callable[..., str]


@pytest.fixture
def fleet() -> Iterator[harness.Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    with harness.running(folder, "--workers", "1", learns=False, covers=False) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ask(
    fleet: harness.Fleet,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ask:
    """Runs the command on the fleet; what it wrote, once it has ended well."""
    monkeypatch.chdir(tmp_path)

    def asked(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--state", str(fleet.state)])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    return asked


@pytest.mark.timeout(120)
def test_the_command_does_to_a_fleet_what_it_says(
    ask: Ask, fleet: harness.Fleet, tmp_path: Path
) -> None:
    def told(*words: object) -> Any:
        return json.loads(ask(*words, "--json"))

    # Vectors, by the base model
    texts = [f"question number {n}" for n in range(100)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    assert told("encode", "texts.txt", "--out", "base.npy")["base"] == 100
    base = np.load(tmp_path / "base.npy")
    assert base.shape == (100, DIM)
    # A skill that somebody else has made
    export_safetensors(head("bank", 1), tmp_path / "bank.safetensors")
    card = told("card", "import", "bank.safetensors", "--publish")
    summary = told("encode", "texts.txt", "--out", "bank.npy", "--model", "bank")
    assert summary["skills"] == {"bank@1": 100}
    assert not np.allclose(np.load(tmp_path / "bank.npy"), base, atol=1e-3)
    assert told("skills", "pin", "bank")["digest"] == card["digest"]
    ask("card", "export", "bank", "--out", "bank.lora.arrow")
    assert "signed by this node" in ask("card", "verify", "bank.lora.arrow", "--trusted")
    # What people found
    pieces = [
        {"query": f"query {n}", "relevant": [f"right {n}"], "irrelevant": [f"wrong {n}"]}
        for n in range(3)
    ]
    lines = "".join(json.dumps(piece) + "\n" for piece in pieces)
    (tmp_path / "given.jsonl").write_text(lines)
    assert told("feedback", "given.jsonl", "--domain", "bank")["journaled"] == 3
    assert told("feedback", "given.jsonl", "--domain", "bank")["known"] == 3
    judged = ask("watch", "--types", "feedback.judged", "--after", 0, "--count", 3, "--json")
    assert {json.loads(line)["data"]["query"] for line in judged.splitlines()} == {
        piece["query"] for piece in pieces
    }
    # What it is doing
    status = told("status")
    assert {one["service"] for one in status["processes"]} >= {"broker", "encoder", "router"}
    assert [(one["name"], one["pinned"]) for one in status["skills"]] == [("bank", True)]
    assert [one["domain"] for one in status["loop"]["domains"]] == ["bank"]
    # And the end of it
    assert told("skills", "retire", "bank", "--reason", "made for a test")["reason"]
    stores = told("skills", "forget", "bank", "--yes")["stores"]
    assert [one["service"] for one in stores] == [
        "dissonance_monitor",
        "distiller",
        "factory",
        "journal",
    ]
    assert "query 1" not in ask("journal", "replay", "--json")
    assert told("journal", "dead", "list") == {"dead": []}
    assert told("skills", "list") == {"skills": []}
