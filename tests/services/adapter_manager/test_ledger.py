"""The manager's table survives its process."""

from pathlib import Path

import pytest

from schemas import BaseModelRef, SkillCard
from services.adapter_manager.ledger import Ledger


def card(name: str = "law", version: int = 1) -> SkillCard:
    return SkillCard(
        name=name,
        version=version,
        digest=f"sha256:{version:064x}",
        bytes=10,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="tiny", sha256="a" * 64),
        applies_to=("query",),
        description="legal",
        prototypes="AAAAAA==",
        threshold=0.5,
        metrics={"gain": 0.1},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    ledger.put(card(), "installed", cause="/factory/1 x")
    ledger.close()

    again = Ledger(tmp_path / "cards.sqlite")
    record = again.get(card().digest)
    assert record is not None
    assert (record.state, record.card, record.cause) == ("installed", card(), "/factory/1 x")
    again.close()


def test_changes_together_are_all_or_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    ledger.put(card(), "installed")

    def broken() -> None:
        with ledger.together():
            ledger.retire(card().digest, "law", 1, reason="worse", cause="x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    record = ledger.get(card().digest)
    assert record is not None
    assert record.state == "installed"
    ledger.close()


def test_a_card_can_be_retired_before_it_was_ever_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    ledger.retire(card().digest, "law", 1, reason="bad", cause="/someone x")
    (record,) = ledger.caused_by("/someone x")
    assert (record.state, record.reason, record.card) == ("retired", "bad", None)
    ledger.close()


def test_retiring_a_known_card_keeps_its_description(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    for number in (1, 2):
        ledger.put(card(version=number), "installed")
    ledger.rank({card(version=1).digest: "kept", card(version=2).digest: "installed"})
    ledger.retire(card(version=2).digest, "law", 2, reason="worse", cause="x")
    assert [(r.version, r.state, r.card is not None) for r in ledger.of("law")] == [
        (1, "kept", True),
        (2, "retired", True),
    ]
    assert ledger.counts() == {"kept": 1, "retired": 1}
    ledger.close()
