"""Models of four families, one suite: encode, apply, stack, remove, out to PEFT and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lora import ArrowEngine, LoRACard, LoRALinear
from lora.head import bend
from lora.interop import export_peft, import_peft
from tests.lora.cards import cosines, model_card
from tests.lora.families import FAMILIES, WIDTH, make

TEXTS = (
    "how do i reset my card?",
    "x",
    "",
    "why was i charged twice for one payment, and who do i ask about it",
    "naïve café 東京",
)
CLOSE = 0.99999


class Model(NamedTuple):
    """A model in our engine, and by sentence-transformers itself."""

    engine: ArrowEngine
    own: Any
    cards: tuple[LoRACard, LoRACard]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    from sentence_transformers import SentenceTransformer

    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    place = make(family, folder)
    engine = ArrowEngine(place, device="cpu")
    one, two = (
        model_card(engine, folder, seed, head=seed == 1, targets=family.targets, **_louder())
        for seed in (1, 2)
    )
    return Model(engine, SentenceTransformer(str(place), device="cpu"), (one, two))


def _louder() -> dict[str, Any]:
    return {"applies_to": ("query", "document")}


def theirs(own: Any, role: str = "query") -> np.ndarray:
    encode = own.encode_query if role == "query" else own.encode_document
    vectors: np.ndarray = encode(list(TEXTS), show_progress_bar=False)
    return vectors


def with_weights(own: Any, cards: Sequence[LoRACard]) -> Any:
    """sentence-transformers' own model with the cards' bodies added into its weights."""
    changed = copy.deepcopy(own)
    for card in cards:
        for name, adapter in card.body.items():
            a, b = adapter.factors
            layer = changed[0].auto_model.get_submodule(name)
            with torch.no_grad():
                layer.weight += torch.from_numpy(adapter.scale * (a @ b).T)
    return changed


def linears(engine: ArrowEngine) -> dict[str, int]:
    layers = engine.manager.model.named_modules()
    return {name: id(layer) for name, layer in layers if isinstance(layer, torch.nn.Linear)}


@pytest.mark.parametrize("role", ["query", "document"])
def test_it_encodes_as_sentence_transformers_does(model: Model, role: str) -> None:
    ours = model.engine.encode(TEXTS, role=role)
    assert ours.shape == (len(TEXTS), WIDTH)
    assert cosines(ours, theirs(model.own, role)).min() > CLOSE
    assert cosines(ours, np.roll(ours, 1, axis=0)).max() < 0.999, "texts lie apart"


def test_every_targeted_layer_bends_what_comes_out(model: Model) -> None:
    """As if its product had been added to the weights; then the head turns the vector."""
    one, _ = model.cards
    assert len(one.body) >= 4
    ours = model.engine.encode_with_lora(TEXTS, cards=[one])
    assert one.head is not None
    expected = bend(theirs(with_weights(model.own, [one])), [one.head])
    assert cosines(ours, expected).min() > CLOSE
    assert cosines(ours, model.engine.encode(TEXTS)).max() < 0.999


def test_cards_stack_and_rows_of_one_batch_have_their_own(model: Model) -> None:
    one, two = model.cards
    assert one.head is not None
    rows = [[one, two], [], [two], [one, two], [one]]
    mixed = model.engine.encode_rows(TEXTS, rows)
    bodies = {
        bodies: theirs(with_weights(model.own, cards))
        for bodies, cards in (("", ()), ("1", (one,)), ("2", (two,)), ("12", (one, two)))
    }
    expected = np.stack(
        [
            bend(bodies["12"][0:1], [one.head])[0],
            bodies[""][1],
            bodies["2"][2],
            bend(bodies["12"][3:4], [one.head])[0],
            bend(bodies["1"][4:5], [one.head])[0],
        ]
    )
    assert cosines(mixed, expected).min() > CLOSE


def test_what_was_removed_leaves_the_very_model(model: Model) -> None:
    engine = model.engine
    for card in engine.manager.list_cards():
        engine.evict(card)
    layers, features = linears(engine), engine.prepare(TEXTS)
    with torch.inference_mode():
        before = engine.forward(features)
        for card in model.cards:
            engine.load_lora(card)
        assert torch.equal(engine.forward(features), before), "no row asks for a card"
        engine.encode_with_lora(TEXTS, cards=model.cards)
        for card in model.cards:
            engine.remove_lora(card)
        assert torch.equal(engine.forward(features), before)
    assert linears(engine) == layers
    assert not any(isinstance(layer, LoRALinear) for layer in engine.module.modules())


def test_peft_agrees_with_a_card_that_goes_out_to_it(model: Model, tmp_path: Path) -> None:
    from peft import PeftModel

    _, two = model.cards
    export_peft(two, tmp_path)
    own = copy.deepcopy(model.own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PeftModel.from_pretrained(own[0].auto_model, str(tmp_path))
    ours = model.engine.encode_with_lora(TEXTS, cards=[two])
    assert cosines(ours, theirs(own)).min() > CLOSE


def test_a_card_that_peft_trained_comes_in(model: Model, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    own = copy.deepcopy(model.own)
    torch.manual_seed(3)
    targets = sorted({name.split(".")[-1] for name in model.cards[0].body})
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(own[0].auto_model, config).save_pretrained(tmp_path)
    engine = model.engine
    found = import_peft(tmp_path, name="theirs", base_model=engine.base_model, dim=engine.dim)
    assert len(found.body) >= 4
    ours = engine.encode_with_lora(TEXTS, cards=[found])
    assert cosines(ours, theirs(own)).min() > CLOSE


def test_a_card_comes_back_from_peft_bit_for_bit(model: Model, tmp_path: Path) -> None:
    one, _ = model.cards
    export_peft(one, tmp_path)
    back = import_peft(tmp_path, name="back", base_model=model.engine.base_model)
    ours = model.engine.encode_with_lora(TEXTS, cards=[one])
    again = model.engine.encode_with_lora(TEXTS, cards=[replace(back, name="back")])
    np.testing.assert_array_equal(ours, again)
