"""Cards in other layouts: PEFT agrees with us, and what went out comes back."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from lora.adapter import DTYPES
from lora.errors import InteropError
from lora.interop import (
    export_peft,
    export_safetensors,
    import_peft,
    import_safetensors,
    load_adapters,
    save_adapters,
)
from lora.tensors import read_tensors, write_tensors
from tests.lora.cards import BASE, adapter, card, cosines, model_card
from tests.lora.models import peft_saved

TEXTS = ["how do I reset my card?", "my phone was stolen", "x", "why was I charged twice?"]


def mixed_ranks(engine):
    modules = {}
    for i, name in enumerate(engine.manager.linears[:-1]):
        linear = engine.manager.model.get_submodule(name)
        if name.endswith(("query", "value", "intermediate.dense")):
            modules[name] = adapter(
                linear.in_features,
                linear.out_features,
                rank=4 if "layer.2" in name else 8,
                alpha=8.0 if "value" in name else 16.0,
                seed=i,
                size=0.08,
            )
    modules["embedding"] = adapter(384, 384, rank=6, seed=99)
    return card(base_model=engine.base_model, dim=384, modules=modules)


def peft_vectors(engine, folder) -> np.ndarray:
    """What PEFT itself makes of the exported body."""
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    own = SentenceTransformer(str(engine.model_folder), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel.from_pretrained(own[0].auto_model, str(folder))
    count = sum(type(m).__name__ == "Linear" and hasattr(m, "lora_A") for m in wrapped.modules())
    assert count > 0
    with torch.inference_mode():
        return own.encode(TEXTS, show_progress_bar=False)


def test_peft_gives_the_vectors_of_an_exported_card(engine, tmp_path) -> None:
    made = mixed_ranks(engine)
    export_peft(made, tmp_path / "peft")
    body = card(base_model=engine.base_model, dim=384, modules=dict(made.body))
    ours = engine.encode_with_lora(TEXTS, cards=[body])
    theirs = peft_vectors(engine, tmp_path / "peft")
    assert cosines(ours, theirs).min() > 0.99999
    assert cosines(ours, engine.encode(TEXTS)).max() < 0.999
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == {4}
    assert set(config["alpha_pattern"].values()) == {8.0}


def test_we_give_the_vectors_of_a_card_that_peft_saved(engine, tmp_path) -> None:
    own, _ = peft_saved(
        engine.model_folder,
        tmp_path,
        r=8,
        lora_alpha=16,
        rank_pattern={"layer.1.attention.self.query": 3},
        alpha_pattern={"value": 4},
    )
    with torch.inference_mode():
        theirs = own.encode(TEXTS, show_progress_bar=False)
    found = import_peft(tmp_path, name="theirs", base_model=engine.base_model, dim=384)
    assert (found.rank, len(found.modules)) == (8, 12)
    assert cosines(engine.encode_with_lora(TEXTS, cards=[found]), theirs).min() > 0.99999


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "int8"])
def test_a_card_that_went_out_and_came_back_is_the_same(tmp_path, dtype: str) -> None:
    modules = {
        "layer.0.query": adapter(5, 7, rank=2, alpha=3.0),
        "layer.1.query": adapter(5, 7, rank=4, alpha=8.0),
        "embedding": adapter(6, 6, rank=3, alpha=1.5),
    }
    made = card(modules={name: one.astype(dtype) for name, one in modules.items()})
    export_peft(made, tmp_path / "peft")
    export_safetensors(made, tmp_path / "plain.safetensors")
    for found in (
        import_peft(tmp_path / "peft", name="bank", base_model=BASE),
        import_safetensors(tmp_path / "plain.safetensors", name="bank", base_model=BASE),
    ):
        assert list(found.modules) == list(made.modules)
        assert "embedding" in found.target_modules
        for name, one in made.modules.items():
            two = found.modules[name]
            assert (two.rank, two.alpha, two.dtype) == (one.rank, one.alpha, dtype)
            assert two.a.tobytes() == one.a.tobytes()
            assert two.b.tobytes() == one.b.tobytes()


def test_the_vectors_are_the_same_after_a_round_trip(engine, tmp_path) -> None:
    made = model_card(engine, tmp_path, 1, head=True)
    export_peft(made, tmp_path / "out")
    back = import_peft(tmp_path / "out", name="back", base_model=engine.base_model)
    ours = engine.encode_with_lora(TEXTS, cards=[made])
    np.testing.assert_array_equal(ours, engine.encode_with_lora(TEXTS, cards=[back]))


def test_a_head_alone_travels_alone(tmp_path) -> None:
    export_peft(card(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]
    assert import_peft(tmp_path, name="x", base_model=BASE).dim == 6


def test_a_bare_pair_is_a_head(tmp_path) -> None:
    one = adapter(6, 6)
    file = tmp_path / "x.safetensors"
    write_tensors(file, {"lora_a": one.a, "lora_b": one.b}, {})
    assert list(load_adapters(file, alpha=8.0)) == ["embedding"]
    with pytest.raises(InteropError, match="alpha"):
        load_adapters(file)
    write_tensors(file, {"lora_a": one.a, "lora_b": one.b}, {"alpha": "3"})
    assert load_adapters(file)["embedding"].alpha == 3
    torch_reads = pytest.importorskip("safetensors.torch").load_file(file)
    np.testing.assert_array_equal(torch_reads["lora_a"].numpy(), one.a)


def peft_folder(tmp_path, tensors=None, **config):
    made = card(modules={"layer.0.query": adapter(5, 7, rank=4, alpha=8.0)})
    shutil.rmtree(tmp_path / "p", ignore_errors=True)
    export_peft(made, tmp_path / "p")
    file = tmp_path / "p" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if tensors is not None:
        write_tensors(tmp_path / "p" / "adapter_model.safetensors", tensors, {})
    return import_peft(tmp_path / "p", name="x", base_model=BASE, dim=6)


def test_rank_stabilised_adapters_keep_their_scale(tmp_path) -> None:
    assert peft_folder(tmp_path, use_rslora=True).modules["layer.0.query"].scale == 8 / 4**0.5


def test_a_pattern_is_a_regular_expression(tmp_path) -> None:
    found = peft_folder(tmp_path, alpha_pattern={r"layer\.\d+\.query": 2.0})
    assert found.modules["layer.0.query"].alpha == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "not the configuration of a LoRA"),
        ({"use_dora": True}, "use_dora, which a card cannot express"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"r": 5}, "has rank 4, its configuration 5"),
        ({"lora_alpha": None}, "no alpha"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
    ],
)
def test_what_a_card_cannot_express_is_refused(tmp_path, config, message: str) -> None:
    with pytest.raises(InteropError, match=message):
        peft_folder(tmp_path, **config)


@pytest.mark.parametrize(
    "tensors",
    [
        {"base_model.model.x.lora_A.weight": np.ones((2, 3), np.float32)},
        {"base_model.model.x.lora_embedding_A": np.ones((2, 3), np.float32)},
        {"base_model.model.x.lora_A.weight": np.ones(3, np.float32)},
        {
            "base_model.model.x.lora_A.weight": np.ones((2, 3), np.float32),
            "base_model.model.x.lora_B.weight": np.ones((5, 4), np.float32),
        },
    ],
)
def test_tensors_that_make_no_adapter_are_refused(tmp_path, tensors) -> None:
    with pytest.raises(InteropError):
        peft_folder(tmp_path, tensors)


def test_files_that_are_not_there_or_not_sound_are_refused(tmp_path) -> None:
    with pytest.raises(InteropError, match="cannot be read as JSON"):
        import_peft(tmp_path, name="x", base_model=BASE)
    file = tmp_path / "x.safetensors"
    with pytest.raises(InteropError):
        read_tensors(file)
    file.write_bytes(b"\xff" * 40)
    with pytest.raises(InteropError):
        read_tensors(file)
    torch_file = pytest.importorskip("safetensors.torch")
    torch_file.save_file({"lora_a": torch.ones(2, 2, dtype=torch.int64)}, file)
    with pytest.raises(InteropError, match="I64"):
        read_tensors(file)
    save_adapters({"x": adapter(3, 4)}, file)
    with pytest.raises(InteropError, match="needs dim"):
        import_safetensors(file, name="x", base_model=BASE)
    write_tensors(file, {"x.lora_c": np.ones((2, 2), np.float32)}, {})
    with pytest.raises(InteropError, match="lora_c"):
        load_adapters(file)
    write_tensors(file, {}, {})
    with pytest.raises(InteropError, match="no adapter"):
        import_safetensors(file, name="x", base_model=BASE)
    write_tensors(file, {"x.lora_a": np.ones((2, 2), np.float32)}, {"alphas": "[1]"})
    with pytest.raises(InteropError, match="alphas"):
        load_adapters(file)
