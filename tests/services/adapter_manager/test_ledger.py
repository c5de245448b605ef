"""The manager's table survives its process."""

from pathlib import Path

import msgspec
import pytest

from schemas import BaseModelRef, SkillCard
from services.adapter_manager.ledger import Ledger


def card(name: str = "law", version: int = 1, number: int | None = None) -> SkillCard:
    return SkillCard(
        name=name,
        version=version,
        digest=f"sha256:{version if number is None else number:064x}",
        bytes=10,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="tiny", sha256="a" * 64),
        applies_to=("query",),
        description="legal",
        prototypes="AAAAAA==",
        boundary="AAAAAAAA",
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


def test_of_cards_out_of_service_the_newest_are_listed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    for number in range(1, 7):
        ledger.put(card(version=number), "installed")
        ledger.retire(card(version=number).digest, "law", number, reason="old", cause="x")
        other = card(f"skill-{number}", number=100 + number)
        ledger.put(other, "rejected", reason="broken", cause="y")
    ledger.put(card(version=7), "installed")

    listed = [(record.name, record.version) for record in ledger.gone(each=2, most=5)]

    assert [version for name, version in listed if name == "law"] == [6, 5]
    assert [name for name, _ in listed if name != "law"] == ["skill-6", "skill-5", "skill-4"]
    assert [record.version for record in ledger.serving()] == [7]
    ledger.close()


def test_what_was_rejected_long_ago_is_forgotten_and_what_was_retired_never(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    for number in range(1, 5):
        ledger.put(card(version=number), "installed")
        ledger.retire(card(version=number).digest, "law", number, reason="old", cause="x")
        ledger.put(card("tax", number=100 + number), "rejected", reason="broken", cause="y")

    forgotten = ledger.forget_rejected(each=1, most=10)

    assert sorted(forgotten) == [card(number=100 + n).digest for n in (1, 2, 3)]
    assert ledger.counts() == {"retired": 4, "rejected": 1}
    assert all(ledger.get(card(version=n).digest) is not None for n in range(1, 5))
    ledger.close()


def test_cards_out_of_service_keep_nothing_that_routes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    ledger.put(card(version=1), "installed")
    ledger.retire(card(version=1).digest, "law", 1, reason="old", cause="x")
    ledger.put(card("tax", number=2), "rejected", reason="broken", cause="y")
    kept = [(it.card.prototypes, it.card.boundary) for it in ledger.gone() if it.card is not None]
    assert kept == [("", ""), ("", "")]
    ledger.close()


def test_the_list_is_planned_without_reading_a_card(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    for number in (1, 2, 3):
        ledger.put(card(version=number), "kept" if number < 3 else "installed")
    ledger.put(card("tax", number=9), "pending")
    ledger.put(card("old", number=10), "rejected", reason="broken")
    ledger.retire(card("new", number=11).digest, "new", 1, reason="bad", cause="never seen")

    planned = ledger.listed()

    order = [card(version=n).digest for n in (3, 1, 2)]
    order += [card("tax", number=9).digest, card("old", number=10).digest]
    assert [digest for digest, _ in planned] == order
    for digest, size in planned:
        record = ledger.get(digest)
        assert record is not None
        assert size == len(msgspec.json.encode(record.card))
    assert dict(ledger.states())[order[0]] == "installed"
    assert len(ledger.states()) == 6
    ledger.close()


def test_what_this_node_made_is_warmed_before_what_came_from_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    theirs = msgspec.structs.replace(card("theirs", number=1), signer="ed25519:x", signature="y")
    ledger.put(theirs, "installed", peer="london")
    ledger.put(card("ours", number=2), "installed")
    ledger.put(card("ours", version=2, number=3), "kept")
    assert [record.name for record in ledger.installed()] == ["ours", "theirs"]
    ledger.close()
