"""One suite for every forward pass: it agrees with sentence-transformers' own modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora import ArrowEngine
from lora.card import LoRACard
from lora.core import PaddedCore, RaggedCore, core_for
from lora.core import linear as kernels
from lora.encoder import SentenceModel
from lora.layer import Segment
from lora.manager import LoRAManager
from tests.lora.cards import cosines, model_card
from tests.lora.families import FAMILIES, make

TEXTS = (
    "how do i reset my card?",
    "x",
    "",
    "why was i charged twice for one payment, and who do i ask about it",
    "naïve café 東京",
    "x",
    "the tokens of this one are more than the model reads, so that it is cut " * 3,
)
CLOSE = 0.99999


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    engine = ArrowEngine(make(FAMILIES[request.param], folder), device="cpu")
    return request.param, engine, folder


def own(engine: ArrowEngine) -> PaddedCore:
    """The model's own modules, with the same cards in them."""
    model: Any = engine
    return PaddedCore(model._model, engine.manager)


def cards_of(engine: ArrowEngine, folder: Path, name: str, count: int) -> list[LoRACard]:
    targets = FAMILIES[name].targets
    return [model_card(engine, folder, seed, targets=targets) for seed in range(1, count + 1)]


def test_known_architectures_run_without_padding_all_others_through_their_own(family) -> None:
    name, engine, _ = family
    assert isinstance(engine.core, PaddedCore if name == "modernbert" else RaggedCore)
    assert engine.core.padded == (name == "modernbert")


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_those_of_the_models_own_modules(family, role: str) -> None:
    _, engine, _ = family
    encode = engine.module.encode_query if role == "query" else engine.module.encode_document
    wanted = encode(list(TEXTS), show_progress_bar=False)
    assert cosines(engine.encode(TEXTS, role=role), wanted).min() > CLOSE


def test_a_text_that_holds_the_padding_itself_is_no_exception(family) -> None:
    _, engine, _ = family
    pad = engine.module.tokenizer.pad_token
    texts = [f"how do {pad} i reset my card", pad, f"{pad}{pad} x", "nothing of it here"]
    wanted = engine.module.encode_query(texts, show_progress_bar=False)
    assert cosines(engine.encode(texts), wanted).min() > CLOSE


def test_no_more_is_read_than_there_are_positions_for(family) -> None:
    _, engine, folder = family
    claims = folder / "claims"
    if not claims.exists():
        shutil.copytree(engine.model_folder, claims)
        [settings] = claims.glob("*sentence_bert_config.json")
        words = json.loads(settings.read_text())
        positions = engine.module[0].auto_model.config.max_position_embeddings
        settings.write_text(json.dumps({**words, "max_seq_length": positions}))
    other = ArrowEngine(claims, device="cpu")
    long = "the tokens of this one are more than the model has positions for " * 20
    assert np.isfinite(other.encode([long, "a short one"])).all()


def test_vectors_do_not_depend_on_what_else_is_in_the_batch(family) -> None:
    _, engine, _ = family
    together = engine.encode(TEXTS)
    alone = np.concatenate([engine.encode([text]) for text in TEXTS])
    assert cosines(together, alone).min() > CLOSE


def test_cards_on_any_rows_mixed_and_stacked_agree(family) -> None:
    name, engine, folder = family
    one, two, three = cards_of(engine, folder, name, 3)
    rows = [(one,), (), (two,), (one, two), (one, two, three), (three,), (two,)]

    found = engine.encode_rows(TEXTS, rows)

    base = engine.encode(TEXTS)
    for text, stack, vector, plain in zip(TEXTS, rows, found, base, strict=True):
        with engine.exclusive():
            segments = [Segment(0, 1, card.key) for card in stack]
            ids = engine.core.tokenize([text], "query")
            wanted = own(engine).forward([text], ids, "query", segments).numpy()
        assert cosines(vector[None], wanted).min() > CLOSE
        if stack:
            assert cosines(vector[None], plain[None]).max() < CLOSE  # the cards did something


def test_a_merged_card_acts_once(family) -> None:
    name, engine, folder = family
    (card,) = cards_of(engine, folder, name, 1)
    wanted = engine.encode_rows(TEXTS, [(card,)] * len(TEXTS))
    engine.manager.merge(card)
    try:
        assert cosines(engine.encode_rows(TEXTS, [(card,)] * len(TEXTS)), wanted).min() > CLOSE
        assert cosines(engine.encode(TEXTS), wanted).min() > CLOSE
    finally:
        engine.manager.unmerge(card)
    assert cosines(engine.encode(TEXTS), wanted).max() < CLOSE


def test_tokens_made_before_are_as_good_as_the_texts(family) -> None:
    _, engine, _ = family
    ids = engine.tokenize(TEXTS)
    assert [len(row) for row in ids] == engine.token_counts(TEXTS)
    assert max(len(row) for row in ids) == engine.max_tokens
    found = engine.encode_rows(TEXTS, [()] * len(TEXTS), tokens=ids)
    assert np.array_equal(found, engine.encode(TEXTS))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_is_near_by_choice(family, dtype: str) -> None:
    _, engine, _ = family
    reduced = ArrowEngine(engine.model_folder, device="cpu", dtype=dtype)
    found = reduced.encode(TEXTS)
    assert found.dtype == np.float32
    assert cosines(found, engine.encode(TEXTS)).min() > 0.99


@pytest.mark.parametrize("kernel", kernels.kernels(), ids=lambda kernel: kernel.name)
def test_every_kernel_gives_the_same_product(kernel: kernels.Kernel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        for rows, width, out in ((1, 8, 8), (3, 32, 48), (130, 384, 1536)):
            x = torch.randn(rows, width, generator=generator)
            weight = torch.randn(out, width, generator=generator)
            bias = torch.randn(out, generator=generator)
            wanted = torch.nn.functional.linear(x, weight, bias)
            assert torch.allclose(kernel.plain(x, weight, bias), wanted, atol=1e-3, rtol=1e-3)
            gelu = torch.nn.functional.gelu(wanted)
            assert torch.allclose(kernel.gelu(x, weight, bias), gelu, atol=1e-3, rtol=1e-3)


def test_a_pass_that_does_not_agree_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = SentenceModel(make(FAMILIES["bert"], tmp_path), torch.device("cpu"))
    manager = LoRAManager(model.root, dim=model.dim)
    assert isinstance(core_for(model, manager), RaggedCore)

    def wrong(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight, bias) + 1

    broken = kernels.STANDARD._replace(plain=wrong)
    monkeypatch.setattr("lora.core.ragged.kernel_for", lambda *_: broken)
    with caplog.at_level("WARNING"):
        assert isinstance(core_for(model, manager), PaddedCore)
    assert "own modules" in caplog.text


@pytest.mark.parametrize("packed", [0, 1 << 30])
def test_copies_of_weights_change_nothing_but_their_speed(tmp_path: Path, packed: int) -> None:
    folder = make(FAMILIES["bert"], tmp_path)
    engine = ArrowEngine(folder, device="cpu", packed_bytes=packed)
    cards = cards_of(engine, tmp_path, "bert", 2)
    rows = [(), (cards[0],), (cards[1],), tuple(cards), (), (), ()]
    wanted = own(engine).forward(list(TEXTS), engine.tokenize(TEXTS), "query", ()).numpy()
    assert cosines(engine.encode(TEXTS), wanted).min() > CLOSE

    found = engine.encode_rows(TEXTS, rows)
    for card in cards:
        engine.manager.merge(card)  # the weights are others now: a copy of the old ones is no use
    merged = engine.encode_rows([TEXTS[3]], [()])
    for card in cards:
        engine.manager.unmerge(card)
    assert cosines(found[3:4], merged).min() > CLOSE
    assert cosines(engine.encode(TEXTS), wanted).min() > CLOSE
