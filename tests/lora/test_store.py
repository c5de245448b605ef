"""The folder of cards: named by their bytes, whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora import CardStore, LoRAFormat
from lora.errors import CardDigestError, CardError, CardNotFoundError, CardTooLargeError
from tests.lora.cards import card


def test_a_card_is_found_by_the_digest_of_its_bytes(tmp_path: Path) -> None:
    store = CardStore(tmp_path / "cards")
    put = store.put(card())
    assert put.digest is not None
    assert store.digests() == [put.digest] == [LoRAFormat.digest_of(store.path(put.digest))]
    assert store.path(put.digest).name == put.digest.removeprefix("sha256:") + ".lora.arrow"
    assert store.open(put.digest).name == "bank"
    assert store.put(card()).digest == put.digest
    assert sorted(p.name for p in store.folder.iterdir()) == [store.path(put.digest).name]


def test_a_deleted_card_stays_readable_where_it_is_mapped(tmp_path: Path) -> None:
    store = CardStore(tmp_path)
    held = store.put(card())
    values = held.modules["embedding"].a.tobytes()
    assert store.delete(held.digest)
    assert not store.delete(held.digest)
    assert store.digests() == []
    assert held.modules["embedding"].a.tobytes() == values
    with pytest.raises(CardNotFoundError):
        store.open(held.digest)


def test_a_file_is_adopted_only_when_it_is_the_card_it_claims(tmp_path: Path) -> None:
    store = CardStore(tmp_path / "cards")
    beside = store.folder / ".incoming.tmp"
    written = LoRAFormat.write(card(), beside)
    with pytest.raises(CardDigestError):
        store.adopt(beside, "sha256:" + "0" * 64)
    assert beside.exists()
    assert store.adopt(beside, written.digest).digest == written.digest
    assert not beside.exists()
    beside.write_bytes(b"rubbish that is long enough to be looked at")
    with pytest.raises(CardError):
        store.adopt(beside, LoRAFormat.digest_of(beside))
    assert store.digests() == [written.digest]


def test_a_card_changed_on_the_disk_is_refused(tmp_path: Path) -> None:
    store = CardStore(tmp_path)
    digest = store.put(card()).digest
    data = bytearray(store.path(digest).read_bytes())
    data[len(data) // 2] ^= 1
    store.path(digest).write_bytes(data)
    with pytest.raises(CardDigestError):
        store.open(digest)


def test_names_that_are_no_digest_touch_no_file(tmp_path: Path) -> None:
    store = CardStore(tmp_path, max_bytes=10)
    (tmp_path / "notes.txt").write_text("not a card")
    for name in ("../../etc/passwd", "sha256:12", "0" * 64, "sha256:" + "0" * 63 + "/"):
        with pytest.raises(CardDigestError):
            store.path(name)
    assert store.digests() == []
    with pytest.raises(CardTooLargeError):
        store.put(card())
