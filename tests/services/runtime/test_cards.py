"""A card's description in events."""

from pathlib import Path

import numpy as np
import pytest

from lora.card import Adapter, BaseModel, LoRACard
from lora.store import CardStore
from services.errors import CardDescriptionError
from services.runtime.cards import describe, prototypes_of


def card(**changes) -> LoRACard:
    given = {
        "name": "law",
        "version": 3,
        "base_model": BaseModel(id="tiny", sha256="a" * 64),
        "dim": 4,
        "modules": {
            "embedding": Adapter(
                a=np.ones((4, 2), np.float32), b=np.ones((2, 4), np.float32), rank=2, alpha=4.0
            )
        },
        "description": "legal terms",
        "prototypes": np.eye(4, dtype=np.float32)[:2],
        "threshold": 0.5,
        "metrics": {"before": 0.5, "after": 0.75, "groups": 64, "note": "text"},
    }
    return LoRACard(**{**given, **changes})


def test_a_description_carries_what_a_router_needs(tmp_path: Path) -> None:
    stored = CardStore(tmp_path).put(card())
    described = describe(stored)
    assert (described.name, described.version, described.digest) == ("law", 3, stored.digest)
    assert described.bytes == (next(tmp_path.glob("*.lora.arrow"))).stat().st_size
    assert described.metrics == {"before": 0.5, "after": 0.75, "groups": 64}
    assert np.array_equal(prototypes_of(described, 4), np.eye(4, dtype=np.float32)[:2])


def test_a_card_without_prototypes_has_none(tmp_path: Path) -> None:
    described = describe(CardStore(tmp_path).put(card(prototypes=None, threshold=None)))
    assert described.prototypes == ""
    assert described.threshold is None
    assert prototypes_of(described, 4) is None


def test_an_unwritten_card_cannot_be_described() -> None:
    with pytest.raises(CardDescriptionError, match="never written"):
        describe(card())


@pytest.mark.parametrize("prototypes", ["not base64!", "AAAA", "AADAfwAAwH8AAMB/AADAfw=="])
def test_prototypes_that_make_no_sense_are_refused(tmp_path: Path, prototypes: str) -> None:
    import msgspec

    described = describe(CardStore(tmp_path).put(card()))
    wrong = msgspec.structs.replace(described, prototypes=prototypes)
    with pytest.raises(CardDescriptionError):
        prototypes_of(wrong, 4)
