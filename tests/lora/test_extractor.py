"""Extraction: the base with the card does what the tuned model does, and what is lost is told."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lora import ArrowEngine, LoRAFormat
from lora.checkpoint import Checkpoint, family
from lora.errors import (
    ConfigError,
    DifferentModelsError,
    InstrumentError,
    ModelError,
    ModelNotFoundError,
    SameModelsError,
)
from lora.extractor import LoRAExtractor
from lora.interop import import_peft
from lora.model import find_model
from tests.lora.cards import cosines
from tests.lora.models import changed, is_linear, low_rank, peft_saved

TEXTS = ["how do I reset my card?", "my phone was stolen", "x", "why was I charged twice?"]


def vectors(folder: Path) -> np.ndarray:
    return ArrowEngine(folder, device="cpu").encode(TEXTS)


def test_all_of_a_delta_makes_the_default_model_the_tuned_one(engine, tmp_path) -> None:
    # Given the default model with a change of known rank in every layer
    tuned = changed(engine.model_folder, tmp_path / "tuned", low_rank(3))
    wanted = vectors(tuned)
    assert cosines(engine.encode(TEXTS), wanted).max() < 0.98
    # When all its energy is extracted
    made = LoRAExtractor(energy=1.0).delta(None, tuned, name="x")
    # Then ranks are found, the card holds all, and the vectors are the tuned model's
    assert {module.rank for module in made.report.modules} == {3}
    assert made.report.captured == pytest.approx(1.0)
    assert len(made.card.modules) == len(engine.manager.linears)
    file = tmp_path / "x.lora.arrow"
    LoRAFormat.write(made.card, file)
    assert cosines(engine.encode_with_lora(TEXTS, cards=[file]), wanted).min() > 0.99999


@pytest.mark.parametrize("alpha", [None, 0.5, 100.0])
def test_the_delta_is_applied_once_whatever_alpha_is(tiny, tiny_folder, tmp_path, alpha) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(3, size=30.0))  # of small weights
    wanted = vectors(tuned)
    assert cosines(tiny.encode(TEXTS), wanted).min() < 0.98
    made = LoRAExtractor(energy=1.0, alpha=alpha).delta(tiny_folder, tuned, name="x")
    assert {module.alpha for module in made.report.modules} == {alpha or 3.0}
    assert cosines(tiny.encode_with_lora(TEXTS, cards=[made.card]), wanted).min() > 0.99999


def test_a_model_that_was_really_trained_comes_back(engine, tmp_path) -> None:
    # Given a few steps on all parameters, norms and embeddings among them
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(engine.model_folder), device="cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    features = model.preprocess(TEXTS)
    for _ in range(3):
        vectors_now = model(dict(features))["sentence_embedding"]
        loss = (vectors_now @ vectors_now.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(tmp_path / "tuned"))
    wanted = vectors(tmp_path / "tuned")
    assert cosines(engine.encode(TEXTS), wanted).min() < 0.97
    # When what was added is extracted, whole and in part
    whole = LoRAExtractor(energy=1.0).delta(None, tmp_path / "tuned", name="x")
    query = ("query",)
    part = LoRAExtractor(energy=0.5, targets=query).delta(None, tmp_path / "tuned", name="x")
    # Then the whole gives its vectors back, and what no card can hold is named
    found = engine.encode_with_lora(TEXTS, cards=[whole.card])
    assert cosines(found, wanted).min() > 0.999
    assert {one.kind for one in whole.report.left_out} == {"norms", "biases", "embeddings"}
    assert 0.5 < whole.report.captured < whole.report.explained == pytest.approx(1.0)
    lost = sum(share or 0.0 for _, share in whole.report.lost().values())
    assert lost + whole.report.captured == pytest.approx(1.0)
    # And each layer has the smallest rank for its share
    assert all(0.5 <= module.explained < 0.8 for module in part.report.modules)
    assert len({module.rank for module in part.report.modules}) > 1


def test_an_adapter_that_peft_merged_comes_back(engine, tmp_path) -> None:
    _, wrapped = peft_saved(
        engine.model_folder,
        tmp_path / "peft",
        r=4,
        lora_alpha=3,
        rank_pattern={"layer.1.attention.self.query": 2},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A plain transformers folder: no pooling, no tokenizer
        wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    adapter = import_peft(tmp_path / "peft", name="x", base_model=engine.base_model, dim=384)

    made = LoRAExtractor(energy=1.0, rank=16).delta(None, tmp_path / "merged", name="x")

    assert set(made.card.modules) == set(adapter.modules)
    ranks = {name: one.rank for name, one in made.card.modules.items()}
    assert ranks == {name: one.rank for name, one in adapter.modules.items()}
    ours = engine.encode_with_lora(TEXTS, cards=[made.card])
    assert cosines(ours, engine.encode_with_lora(TEXTS, cards=[adapter])).min() > 0.99999


@pytest.mark.parametrize("size", [0.001, 1.0, 100.0])
def test_the_rank_is_found_however_large_the_change_is(tiny_folder, tmp_path, size) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2, size=size))
    made = LoRAExtractor(energy=1.0).delta(tiny_folder, tuned, name="x")
    assert {module.rank for module in made.report.modules} == {2}
    changes = [module.change for module in made.report.modules]
    assert changes == pytest.approx([size] * len(changes), rel=1e-3)


@pytest.mark.parametrize("prefix", ["bert.", "model.", "auto_model."])
def test_a_wrappers_names_are_understood(tiny_folder, tmp_path, prefix: str) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(1))
    tensors = load_file(tuned / "model.safetensors")
    named = {f"{prefix}{name}": array for name, array in tensors.items()}
    save_file({**named, "cls.bias": np.ones(3, "f4")}, tuned / "model.safetensors")
    report = LoRAExtractor(rank=1).delta(tiny_folder, tuned, name="x").report
    assert len(report.modules) == 13
    assert [(one.name, one.reason) for one in report.left_out] == [
        ("cls.bias", "only in the tuned model")
    ]


def test_a_card_says_where_it_comes_from_and_bends_queries(tiny_folder, tmp_path) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    made = LoRAExtractor(rank=1, targets=("query",)).delta(tiny_folder, tuned, name="bank")
    card = LoRAFormat.write(made.card, tmp_path / "x.lora.arrow")
    assert card.base_model == find_model(tiny_folder).base_model
    assert (card.applies_to, card.rank, card.dim) == (("query",), 1, 32)
    assert card.extra["tuned_sha256"] == find_model(tuned).base_model.sha256
    assert "tuned" in card.description
    assert card.metrics["explained"] == pytest.approx(made.report.explained)
    both = LoRAExtractor().delta(
        tiny_folder, tuned, name="x", applies_to=("query", "document"), description="all"
    )
    assert (both.card.applies_to, both.card.description) == (("query", "document"), "all")
    # Layers that were not asked for are told of, with their share
    (kind, reason) = next(iter(made.report.lost()))
    assert (kind, reason) == ("Linear layers", "not among the targets")
    assert made.report.captured < 0.5 * made.report.explained
    assert json.loads(json.dumps(made.report.as_dict()))["captured"] == made.report.captured


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_narrow_card_does_nearly_the_same(tiny_folder, tmp_path, dtype: str) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    made = LoRAExtractor(energy=1.0, dtype=dtype).delta(tiny_folder, tuned, name="x")
    assert {adapter.dtype for adapter in made.card.modules.values()} == {dtype}
    base = ArrowEngine(tiny_folder, device="cpu")
    found = base.encode_with_lora(TEXTS, cards=[made.card])
    assert cosines(found, vectors(tuned)).min() > 0.999


def test_a_tuned_model_saved_in_half_precision_is_not_all_rounding(tiny_folder, tmp_path) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    halves = {k: v.astype("float16") for k, v in load_file(tuned / "model.safetensors").items()}
    save_file(halves, tuned / "model.safetensors", {"format": "pt"})
    made = LoRAExtractor(energy=1.0).delta(tiny_folder, tuned, name="x")
    assert {module.rank for module in made.report.modules} == {2}
    assert made.report.explained > 0.999
    base = ArrowEngine(tiny_folder, device="cpu")
    assert cosines(base.encode_with_lora(TEXTS, cards=[made.card]), vectors(tuned)).min() > 0.999


def test_weights_that_torch_saved_are_read_too(tiny_folder, tmp_path) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    made = LoRAExtractor(rank=2).delta(tiny_folder, tuned, name="x")
    weights = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): torch.from_numpy(array)
        for name, array in load_file(tuned / "model.safetensors").items()
    }
    (tuned / "model.safetensors").unlink()
    for zipped in (True, False):
        file = tuned / "pytorch_model.bin"
        torch.save(weights, file, _use_new_zipfile_serialization=zipped)
        again = LoRAExtractor(rank=2).delta(tiny_folder, tuned, name="x")
        assert again.report.modules == made.report.modules
        assert not again.report.left_out
    (tuned / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match="no plain weight file"):
        LoRAExtractor().delta(tiny_folder, tuned, name="x")


def test_what_a_card_cannot_hold_is_counted_and_named(tiny_folder, tmp_path) -> None:
    def change(name, array):
        if "LayerNorm" in name or name.endswith("query.bias"):
            return array + np.float32(0.5)
        if name == "embeddings.word_embeddings.weight":
            return array[:-1]
        if name == "pooler.dense.weight":
            return None
        return array * np.float32(1.1) if is_linear(name) else array

    tuned = changed(tiny_folder, tmp_path / "tuned", change)
    report = LoRAExtractor(energy=0.9).delta(tiny_folder, tuned, name="x").report
    lost = report.lost()
    assert lost["norms", "not a Linear layer's weight"][0] == 10
    assert lost["biases", "not a Linear layer's weight"][0] == 2
    assert lost["embeddings", "another shape"] == (1, None)
    assert lost["Linear layers", "only in the base model"] == (1, None)
    assert 0.9 <= report.explained < 1
    assert report.captured < report.explained
    shown = [cell for table in report.tables() for column in table.columns for cell in column.cells]
    assert {"not known", "norms", "embeddings"} <= set(shown)


def test_another_pooling_is_noted(tiny_folder, tmp_path) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(1))
    file = next(tuned.glob("*_Pooling/config.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": "cls"}))
    assert "pool" in LoRAExtractor().delta(tiny_folder, tuned, name="x").report.notes[0]


@pytest.mark.parametrize(("use", "sign"), [("amplify", 1), ("remove", -1)])
def test_a_direct_part_is_scaled_for_its_use(tiny_folder, tmp_path, use: str, sign: int) -> None:
    # Given the leading part of each layer, by another way
    def change(name, array):
        if not name.endswith("value.weight"):
            return array
        u, s, vt = np.linalg.svd(array.astype(np.float64))
        return array + np.float32(sign * 0.5 * (u[:, :3] * s[:3] @ vt[:3]))

    wanted = vectors(changed(tiny_folder, tmp_path / "changed", change))
    # When it is extracted for the use
    extractor = LoRAExtractor(rank=3, alpha=7.0, targets=("value",))
    made = extractor.direct(tiny_folder, name="x", use=use, strength=0.5)
    # Then applying the card is that use
    base = ArrowEngine(tiny_folder, device="cpu")
    found = base.encode_with_lora(TEXTS, cards=[made.card])
    assert cosines(found, wanted).min() > 0.99999
    assert 0 < made.report.explained < 1
    assert (made.card.extra["use"], made.card.extra["strength"]) == (use, "0.5")


def test_models_that_cannot_be_compared_are_refused(tiny_folder, tmp_path) -> None:
    extractor = LoRAExtractor()
    same = changed(tiny_folder, tmp_path / "same", lambda _, array: array)
    with pytest.raises(SameModelsError, match="the same weights"):
        extractor.delta(tiny_folder, same, name="x")
    third = np.float32(1 / 3)
    rounded = changed(
        tiny_folder, tmp_path / "r", lambda n, a: a * third / third if is_linear(n) else a
    )
    assert Checkpoint(rounded).base_model.sha256 != Checkpoint(tiny_folder).base_model.sha256
    with pytest.raises(SameModelsError, match="the same weights"):
        extractor.delta(tiny_folder, rounded, name="x")
    norms = changed(tiny_folder, tmp_path / "norms", lambda n, a: a + ("LayerNorm" in n))
    with pytest.raises(InstrumentError, match="nothing that this card could hold: norms"):
        extractor.delta(tiny_folder, norms, name="x")
    with pytest.raises(DifferentModelsError, match="hidden size is 384 and 32"):
        extractor.delta(None, tiny_folder, name="x")
    nan = changed(tiny_folder, tmp_path / "nan", lambda _, array: array * np.float32(np.nan))
    with pytest.raises(InstrumentError, match="NaN or infinity"):
        extractor.delta(tiny_folder, nan, name="x")
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    with pytest.raises(InstrumentError, match="more than 0 MB"):
        LoRAExtractor(max_bytes=1000).delta(tiny_folder, tuned, name="x")
    zero = changed(tiny_folder, tmp_path / "zero", lambda _, array: array * 0)
    with pytest.raises(InstrumentError, match="are zero"):
        extractor.direct(zero, name="x")


def test_folders_that_hold_no_model_are_refused(tiny_folder, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder nor a hub id"):
        Checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="no model weights"):
        Checkpoint(tmp_path)
    broken = changed(tiny_folder, tmp_path / "broken", lambda _, array: array)
    (broken / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="no readable weight file"):
        Checkpoint(broken)
    (broken / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(ModelNotFoundError, match="describes no model"):
        Checkpoint(broken)
    (broken / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        Checkpoint(broken)
    (broken / "modules.json").write_text('[{"idx": 0, "type": "x.WordEmbeddings"}]')
    with pytest.raises(ModelNotFoundError, match="not with a transformer"):
        Checkpoint(broken)
    (broken / "modules.json").write_text("[1]")
    with pytest.raises(ModelNotFoundError, match="does not list"):
        Checkpoint(broken)
    other = changed(
        tiny_folder, tmp_path / "other", lambda name, a: a if "LayerNorm" in name else None
    )
    with pytest.raises(ModelError, match="no weight of a Linear layer"):
        Checkpoint(other)


def test_names_and_shapes_are_those_that_cards_use(engine) -> None:
    found = Checkpoint()
    linears = {n: engine.manager.model.get_submodule(n) for n in engine.manager.linears}
    assert found.linears == {n: (m.out_features, m.in_features) for n, m in linears.items()}
    assert (found.dim, found.base_model) == (engine.dim, engine.base_model)
    name = "encoder.layer.1.output.dense"
    np.testing.assert_array_equal(found.weight(name), linears[name].weight.detach().numpy())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("encoder.layer.0.output.LayerNorm.bias", "norms"),
        ("h.0.ln_1.weight", "norms"),
        ("wte.weight", "embeddings"),
        ("encoder.layer.0.output.dense.bias", "biases"),
        ("2_Dense/linear.weight", "layers behind the pooling"),
        ("h.0.attn.c_attn.weight", "other tensors"),
    ],
)
def test_what_is_no_linear_layer_has_a_name(name: str, kind: str) -> None:
    assert family(name) == kind


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"energy": 2.0}, {"alpha": 0.0}, {"dtype": "int4"}, {"rank": 5000}]
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        LoRAExtractor(**wrong)
    with pytest.raises(ConfigError):
        LoRAExtractor().direct(None, name="x", strength=0)
    with pytest.raises(ConfigError):
        LoRAExtractor().direct(None, name="x", use="nothing")
