"""Cards of several authors beside each other: each numbers their own versions."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lora.card import LoRACard
from schemas import Event, SkillCard, SkillFetched, SkillInstalled, SkillRejected, SkillRetired
from services.adapter_manager.ledger import Ledger
from services.adapter_manager.service import AdapterManagerService
from services.runtime.cards import describe
from tests.services.adapter_manager.test_ledger import card as described
from tests.services.adapter_manager.test_service import Encoder, retire, told
from tests.services.encoder.processes import Processes, settings, skill, until

ANNE, BERT = "ed25519:" + "A" * 43, "ed25519:" + "B" * 43


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


async def fetched(
    processes: Processes, card: LoRACard, signer: str | None = ANNE, peer: str = "london"
) -> SkillCard:
    """Lay a card into the store and tell of it, as federation does."""
    signature = None if signer is None else "S" * 86
    stored = describe(processes.store.put(card))
    foreign = msgspec.structs.replace(stored, signer=signer, signature=signature)
    bus = await processes.bus("/federation/1")
    data = SkillFetched(card=foreign, peer=peer)
    await bus.publish(Event(data=data, source="/federation/1"))
    return foreign


def listed(manager: AdapterManagerService) -> set[tuple[str | None, int, str, str | None]]:
    return {(card.signer, card.version, card.state, card.peer) for card in manager.listed()}


async def test_every_author_numbers_their_own_versions(processes: Processes) -> None:
    ear = await told(processes)
    keep = settings(manager={"keep_versions": 2})
    manager = await processes.start(AdapterManagerService, settings=keep)
    await Encoder(processes).start()
    await processes.publish(skill("law", 5, seed=1))
    await fetched(processes, skill("law", 5, seed=2))
    await fetched(processes, skill("law", 1, seed=3), BERT)
    installed = await ear.first(SkillInstalled, 3)
    assert (installed.data.peer, installed.data.card.signer) == ("london", BERT)
    assert ear.of(SkillInstalled)[0].data.peer is None
    assert not ear.of(SkillRejected)
    assert listed(manager) == {
        (None, 5, "installed", None),
        (ANNE, 5, "installed", "london"),
        (BERT, 1, "installed", "london"),
    }

    await fetched(processes, skill("law", 5, seed=4))
    again = await ear.first(SkillRejected)
    assert "version 5 is another card already" in again.data.reason


async def test_each_authors_last_versions_are_kept(processes: Processes) -> None:
    ear = await told(processes)
    keep = settings(manager={"keep_versions": 1})
    manager = await processes.start(AdapterManagerService, settings=keep)
    await Encoder(processes).start()
    await processes.publish(skill("law", 1, seed=1))
    await fetched(processes, skill("law", 2, seed=2))
    newest = await fetched(processes, skill("law", 3, seed=3))
    retired = await ear.first(SkillRetired)
    assert (retired.data.version, retired.data.successor) == (2, newest.digest)
    assert listed(manager) == {
        (None, 1, "installed", None),
        (ANNE, 3, "installed", "london"),
        (ANNE, 2, "retired", "london"),
    }
    await fetched(processes, skill("law", 1, seed=4))
    assert "older than the last 1" in (await ear.first(SkillRejected)).data.reason


async def test_what_an_author_made_is_retired_among_their_own(processes: Processes) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    await processes.publish(skill("law", 9, seed=1))
    first = await fetched(processes, skill("law", 1, seed=2))
    second = await fetched(processes, skill("law", 2, seed=3))
    await ear.first(SkillInstalled, 3)
    await retire(processes, second.digest, 2)
    assert (await ear.first(SkillRetired)).data.successor == first.digest
    assert listed(manager) == {
        (None, 9, "installed", None),
        (ANNE, 1, "installed", "london"),
        (ANNE, 2, "retired", "london"),
    }
    await fetched(processes, skill("law", 2, seed=3), BERT)
    assert "stays retired" in (await ear.first(SkillRejected)).data.reason, "whoever signs it"


async def test_a_peers_card_without_a_signer_is_rejected_and_takes_no_room(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    encoder = await Encoder(processes).start()
    card = await fetched(processes, skill("law"), signer=None)
    assert "does not say who signed it" in (await ear.first(SkillRejected)).data.reason
    assert not encoder.asked
    assert not [it for it in manager.listed() if it.state != "rejected"]
    await until(lambda: card.digest not in processes.store.digests(), "its file is deleted")


async def test_this_nodes_own_card_stays_its_own_when_a_peer_brings_it_back(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    own = skill("law")
    await processes.publish(own)
    await ear.first(SkillInstalled)
    await fetched(processes, own)
    again = await ear.first(SkillInstalled, 2)
    assert (again.data.card.signer, again.data.peer) == (None, None)

    await processes.kill(manager)
    processes.store.delete(again.data.card.digest)
    manager = await processes.start(AdapterManagerService)
    await fetched(processes, own)
    await ear.first(SkillInstalled, 3)
    assert listed(manager) == {(None, 1, "installed", None)}, "even where only the peer had it left"


async def test_nothing_in_a_file_says_whose_it_is(processes: Processes) -> None:
    ear = await told(processes)
    await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    lies: dict[str, Any] = {"signer": BERT, "signature": "B" * 86, "peer": "rome"}
    event = await processes.publish(skill("law", seed=1, extra=lies))
    assert (event.data.card.signer, event.data.card.signature) == (None, None)
    own = await ear.first(SkillInstalled)
    assert (own.data.card.signer, own.data.card.signature, own.data.peer) == (None, None, None)
    await fetched(processes, skill("tax", seed=2, extra=lies))
    foreign = await ear.first(SkillInstalled, 2)
    assert (foreign.data.card.signer, foreign.data.card.signature) == (ANNE, "S" * 86)
    assert foreign.data.peer == "london"


async def test_a_list_tells_of_a_restarted_manager_from_whom_it_has_its_cards(
    processes: Processes,
) -> None:
    ear = await told(processes)
    manager = await processes.start(AdapterManagerService)
    await Encoder(processes).start()
    await fetched(processes, skill("zoo", seed=2))
    await fetched(processes, skill("art", seed=3))
    await ear.first(SkillInstalled, 2)
    await processes.kill(manager)
    await processes.start(AdapterManagerService)
    cards = await (await processes.client()).skills()
    assert [(it.name, it.peer, it.signer, it.signature) for it in cards] == [
        ("zoo", "london", ANNE, "S" * 86),
        ("art", "london", ANNE, "S" * 86),
    ], "the first installed comes first"


def test_the_table_keeps_author_and_peer_of_what_is_out_of_service(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    foreign = msgspec.structs.replace(described(), signer=ANNE, signature="S")
    ledger.put(foreign, "installed", peer="london")
    ledger.retire(foreign.digest, "law", 1, reason="old", cause="x")
    (record,) = ledger.of("law", ANNE)
    assert ledger.of("law") == []
    assert record.card is not None
    assert (record.peer, record.signer, record.card.signature) == ("london", ANNE, "S")
    ledger.close()


def test_rejected_cards_of_others_do_not_push_this_nodes_own_off_the_list(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cards.sqlite")
    ledger.put(described(), "installed")
    ledger.retire(described().digest, "law", 1, reason="old", cause="x")
    for number in range(2, 12):
        junk = msgspec.structs.replace(described("law", number), signer=ANNE)
        ledger.put(junk, "rejected", reason="junk", peer="london")
    assert [record.signer for record in ledger.gone(each=3, most=3)] == [None, ANNE, ANNE]
    ledger.close()


def test_a_table_from_before_there_were_peers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cards.sqlite"
    with sqlite3.connect(path) as store:
        store.execute(
            "CREATE TABLE cards (digest TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT"
            " NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', cause TEXT NOT NULL"
            " DEFAULT '', card BLOB) STRICT"
        )
        values = (described().digest, "law", 1, "installed", msgspec.json.encode(described()))
        store.execute(
            "INSERT INTO cards (digest, name, version, state, card) VALUES (?, ?, ?, ?, ?)", values
        )
    store.close()
    ledger = Ledger(path)
    (record,) = ledger.of("law")
    assert (record.card, record.signer, record.peer) == (described(), None, None)
    ledger.close()
