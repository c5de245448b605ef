"""The examples of `docs/instruments.md` run as they stand, on a small model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from lora import LoRAFormat
from lora.commands import main
from lora.lowrank import rounding_floor
from tests.lora.models import changed, low_rank

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "instruments.md").read_text("utf-8")

pytestmark = pytest.mark.docs


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tiny_folder, tmp_path, monkeypatch) -> Path:
    """A working folder with the models and texts that the document speaks of."""
    changed(tiny_folder, tmp_path / "base", lambda _, array: array)
    changed(tiny_folder, tmp_path / "tuned", low_rank(3))
    (tmp_path / "questions.txt").write_text("how do i reset my card\nwhere is my refund\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_they_stand(folder, capsys) -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.removeprefix("$ python -m lora "))
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code, line
    said = capsys.readouterr().out
    assert json.loads(said[said.index('{\n  "mode"') :])["mode"] == "delta"
    assert LoRAFormat.read("small.lora.arrow").rank == 3
    assert LoRAFormat.read("bank.lora.arrow").metrics["explained"] >= 0.9
    assert LoRAFormat.read("less.lora.arrow").extra == {
        "extracted": "direct",
        "use": "remove",
        "strength": "0.5",
    }


def test_the_python_examples_run_as_they_stand(folder, capsys) -> None:
    for source in blocks("python"):
        exec(source, {})  # noqa: S102
    first, second = capsys.readouterr().out.splitlines()
    captured, difference = (float(number) for number in first.split())
    assert captured > 0.999
    assert difference < 1e-4
    assert second.startswith("encoder.layer.")


def test_the_floor_is_that_of_the_document() -> None:
    w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    rows, columns = (np.linalg.norm(w, axis=axis).max() for axis in (1, 0))
    assert rounding_floor(w, 0.01) == pytest.approx(2 * 0.01 / 3**0.5 * (rows + columns))
