"""Models that start by notes: the same vectors, without the libraries that took the notes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora import ArrowEngine
from lora.core import PaddedCore, RaggedCore
from lora.core.facts import CARRIED
from lora.core.noted import facts_of
from lora.encoder import SentenceModel
from lora.errors import EngineError
from lora.model import find_model
from tests.lora.cards import cosines, model_card
from tests.lora.families import FAMILIES, make

TEXTS = ("how do i reset my card?", "x", "", "Naïve CAFÉ 東京", "longer than it reads " * 40)


def light(folder: Path, notes: Path, **options: Any) -> ArrowEngine:
    return ArrowEngine(folder, device="cpu", trainable=False, notes=notes, **options)


def whole(engine: ArrowEngine) -> bool:
    """Whether sentence-transformers' own modules are in it."""
    try:
        return engine.module is not None
    except EngineError:
        return False


@pytest.mark.parametrize("name", FAMILIES)
def test_the_second_start_goes_by_notes_and_gives_the_same(name: str, tmp_path: Path) -> None:
    folder = make(FAMILIES[name], tmp_path / "model")
    first = light(folder, tmp_path / "notes")
    assert whole(first), "there were no notes yet"
    second = light(folder, tmp_path / "notes")
    if name == "modernbert":  # of no known family: nothing can be noted
        assert whole(second)
        assert isinstance(second.core, PaddedCore)
        return
    assert not whole(second)
    assert isinstance(second.core, RaggedCore)
    assert sorted(second.manager.linears) == sorted(first.manager.linears)
    card = model_card(first, tmp_path, seed=1, targets=FAMILIES[name].targets)
    for role in ("query", "document"):
        assert second.tokenize(TEXTS, role=role) == first.tokenize(TEXTS, role=role)
        assert np.allclose(second.encode(TEXTS, role=role), first.encode(TEXTS, role=role))
    bent = [second.encode_with_lora(TEXTS, cards=[card]), first.encode_with_lora(TEXTS, [card])]
    assert np.allclose(*bent)
    assert cosines(bent[0], second.encode(TEXTS)).min() < 0.999, "the card acts"


def test_a_changed_setting_makes_the_notes_void(tmp_path: Path) -> None:
    folder = make(FAMILIES["bert"], tmp_path / "model")
    light(folder, tmp_path / "notes")
    file = folder / "sentence_bert_config.json"
    settings = json.loads(file.read_text()) | {"max_seq_length": 7}
    file.write_text(json.dumps(settings))
    again = light(folder, tmp_path / "notes")
    assert whole(again)
    assert again.max_tokens == 7
    assert not whole(light(folder, tmp_path / "notes"))


@pytest.mark.parametrize("damage", ["cut", "forged vectors", "another tokenizer"])
def test_notes_that_do_not_hold_are_not_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(FAMILIES["bert"], tmp_path / "model")
    wanted = light(folder, tmp_path / "notes").encode(TEXTS)
    (file,) = (tmp_path / "notes").glob("*.json")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        noted = json.loads(file.read_text())
        if damage == "forged vectors":
            vectors = noted["vectors"]
            vectors["query"] = vectors["query"][-400:] + vectors["query"][:-400]
        else:
            noted["tokenizer"] = '{"no": "tokenizer"}'
        file.write_text(json.dumps(noted))
    with caplog.at_level("WARNING"):
        engine = light(folder, tmp_path / "notes")
    assert whole(engine)
    assert np.array_equal(engine.encode(TEXTS), wanted)
    assert "note" in caplog.text
    assert not whole(light(folder, tmp_path / "notes")), "they were taken anew"


def test_numbers_of_fewer_bits_have_notes_of_their_own(tmp_path: Path) -> None:
    folder = make(FAMILIES["bert"], tmp_path / "model")
    light(folder, tmp_path / "notes")
    assert whole(light(folder, tmp_path / "notes", dtype="bfloat16"))
    reduced = light(folder, tmp_path / "notes", dtype="bfloat16")
    assert not whole(reduced)
    assert cosines(reduced.encode(TEXTS), light(folder, tmp_path / "notes").encode(TEXTS)).min() > (
        0.99
    )


def test_a_folder_that_cannot_be_written_costs_no_more_than_the_notes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(FAMILIES["bert"], tmp_path / "model")
    (tmp_path / "notes").write_text("a file stands where the folder should be")
    with caplog.at_level("WARNING"):
        assert light(folder, tmp_path / "notes").encode(["x"]).shape[0] == 1
    assert "could not be kept" in caplog.text


def test_the_notes_that_are_carried_are_true_of_the_default_model() -> None:
    found = find_model(None)
    fresh = facts_of(SentenceModel(found.folder, torch.device("cpu")), found.folder)
    (file,) = CARRIED.glob("*.json")
    from lora.core.facts import Facts, read_facts

    carried = read_facts((CARRIED,), file.stem)
    assert isinstance(fresh, Facts)
    assert isinstance(carried, Facts)
    for role, vectors in fresh.vectors.items():
        shape = (-1, fresh.dim)
        ours = np.frombuffer(carried.vectors[role], "<f4").reshape(shape)
        assert cosines(np.frombuffer(vectors, "<f4").reshape(shape), ours).min() > 0.99999
    assert {n: getattr(fresh, n) for n in Facts.__struct_fields__ if n != "vectors"} == {
        n: getattr(carried, n) for n in Facts.__struct_fields__ if n != "vectors"
    }


def test_the_default_model_needs_neither_library() -> None:
    program = """
import sys
from lora.engine import ArrowEngine
engine = ArrowEngine(device="cpu", threads=1, trainable=False)
assert engine.encode(["a text"]).shape == (1, 384)
print(sorted({"sentence_transformers", "transformers", "scipy", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
