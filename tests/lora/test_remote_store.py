"""Cards in an object store: what one machine puts another one serves, and nothing is believed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lora import CardStore, LoRACard, LoRAFormat
from lora.errors import (
    CardCorruptError,
    CardDigestError,
    CardNotFoundError,
    CardTooLargeError,
)
from lora.object_place import ObjectPlace
from lora.objects import Objects
from lora.remote_store import RemoteCardStore
from tests.lora import stores
from tests.lora.cards import card
from tests.object_server import ObjectServer

Machine = Callable[..., RemoteCardStore]


@pytest.fixture(params=["s3", "gs", "folder"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """Makes the store of one machine: each has a folder of its own, and all share one place."""
    place = ObjectPlace(f"file://{tmp_path}/shared")
    if request.param != "folder":
        place = stores.place(request.getfixturevalue(request.param))
    return lambda name="a", **given: stores.machine(tmp_path / name, place, **given)


def test_a_card_put_by_one_machine_is_opened_by_another(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    put = here.put(card())
    assert put.digest is not None
    assert there.local() == []
    assert there.digests() == [put.digest]
    opened = there.open(put.digest)
    assert opened.digest == put.digest
    assert (opened.modules["embedding"].a == put.modules["embedding"].a).all()
    assert there.local() == [put.digest]
    assert LoRAFormat.digest_of(there.path(put.digest)) == put.digest
    # Mapped as any other card is: the numbers are the file's own.
    assert not opened.modules["embedding"].a.flags.writeable


def test_a_deleted_card_is_gone_for_all_who_have_not_fetched_it(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    digest = here.put(card()).digest
    assert here.delete(digest)
    assert not here.delete(digest)
    assert (here.digests(), here.local()) == ([], [])
    with pytest.raises(CardNotFoundError, match=digest):
        there.open(digest)
    assert there.local() == []


def test_putting_a_card_again_changes_nothing(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    assert here.put(card()).digest == there.put(card()).digest == here.put(card()).digest
    assert len(here.digests()) == len(there.local()) == 1


def test_a_fetched_file_is_shared_once_it_is_verified(machine: Machine, tmp_path: Path) -> None:
    here, there = machine("here"), machine("there")
    written = LoRAFormat.write(card(), tmp_path / "incoming")
    assert written.digest is not None
    with pytest.raises(CardDigestError):
        here.adopt(tmp_path / "incoming", "sha256:" + "0" * 64)
    assert here.digests() == []
    here.adopt(tmp_path / "incoming", written.digest)
    assert there.open(written.digest).digest == written.digest


def test_what_lay_in_the_folder_before_is_kept_and_can_be_shared(machine: Machine) -> None:
    here, there = machine("here", room=0), machine("there")
    old = CardStore(here.folder).put(card("old")).digest
    assert old is not None
    new = here.put(card("new")).digest
    assert here.digests() == [new]
    assert here.open(old).name == "old"
    here.put(card("newer"))  # no room for anything: but nobody else has the old one
    assert old in here.local()
    here.share(old)
    assert there.open(old).name == "old"
    here.put(card("newest"))
    assert old not in here.local()
    with pytest.raises(CardNotFoundError):
        here.share("sha256:" + "0" * 64)


def test_the_folder_keeps_its_budget_and_evicts_the_least_used(machine: Machine) -> None:
    digests = [str(machine("far").put(card(f"card-{i}")).digest) for i in range(4)]
    size = machine("far").open(digests[0]).bytes
    assert size is not None
    near = machine("near", room=int(2.5 * size))
    for digest in digests[:2]:
        near.open(digest)
    near.open(digests[0])
    near.open(digests[2])
    assert near.local() == sorted([digests[0], digests[2]])
    near.open(digests[1])  # comes back
    assert near.local() == sorted([digests[1], digests[2]])


def test_a_card_that_is_open_is_not_evicted(machine: Machine) -> None:
    digests = [str(machine("far").put(card(f"card-{i}")).digest) for i in range(3)]
    near = machine("near", room=0)
    held: LoRACard | None = near.open(digests[0])
    again = near.open(digests[0])
    near.open(digests[1])
    assert digests[0] in near.local()
    assert held is not None
    held = None
    near.open(digests[2])
    assert digests[0] in near.local()
    assert again.digest == digests[0]
    del again
    near.open(digests[1])
    assert digests[0] not in near.local()


def _open_and_wait(folder: Path, shared: Path, digest: str, ends: object) -> None:
    held = stores.machine(folder, ObjectPlace(f"file://{shared}")).open(digest)
    ends.send(held.digest)  # type: ignore[attr-defined]
    ends.recv()  # type: ignore[attr-defined]
    os._exit(0)  # as a kill would, with the card open


def test_a_card_that_another_process_has_open_is_not_evicted(tmp_path: Path) -> None:
    place = ObjectPlace(f"file://{tmp_path}/shared")
    far = stores.machine(tmp_path / "far", place)
    digests = [str(far.put(card(f"card-{i}")).digest) for i in range(3)]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_open_and_wait, args=(tmp_path / "near", tmp_path / "shared", digests[0], theirs)
    )
    child.start()
    assert ours.recv() == digests[0]
    near = stores.machine(tmp_path / "near", place, room=0)
    near.open(digests[1])
    assert digests[0] in near.local()
    ours.send("enough")
    child.join()
    near.open(digests[2])
    assert digests[0] not in near.local()
    ours.close()
    theirs.close()


def test_many_fetch_the_same_card_at_once(machine: Machine) -> None:
    digest = machine("far").put(card()).digest
    stores = [machine("near") for _ in range(2)]
    start = threading.Barrier(6)
    found: list[str | None] = []

    def fetch(store: RemoteCardStore) -> None:
        start.wait()
        found.append(store.open(digest).digest)

    threads = [threading.Thread(target=fetch, args=(stores[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest] * 6
    assert [p.name for p in stores[0].folder.iterdir() if "fetch" in p.name] == []


def test_a_copy_that_was_damaged_here_is_fetched_again(machine: Machine) -> None:
    store = machine()
    digest = store.put(card()).digest
    assert digest is not None
    store.path(digest).write_bytes(b"x" * store.path(digest).stat().st_size)
    assert store.open(digest).digest == digest
    store.path(digest).write_bytes(b"")
    assert store.open(digest).digest == digest


@pytest.mark.parametrize(
    ("made", "error"),
    [
        pytest.param(lambda data: data[:-1] + b"x", CardDigestError, id="one byte"),
        pytest.param(lambda data: data[: len(data) // 2], CardDigestError, id="cut off"),
        pytest.param(lambda data: b"", CardDigestError, id="empty"),
        pytest.param(lambda data: data + bytes(1 << 20), CardTooLargeError, id="too large"),
    ],
)
def test_what_was_changed_in_the_store_is_refused_and_can_be_mended(
    server: ObjectServer, tmp_path: Path, made: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    here, there = stores.at(server, tmp_path / "here"), stores.at(server, tmp_path / "there")
    digest = here.put(card()).digest
    assert digest is not None
    stores.write(server, digest, made(here.path(digest).read_bytes()))
    with pytest.raises(error, match=digest.removeprefix("sha256:")):
        there.open(digest)
    assert there.local() == []
    assert list(there.folder.glob(".*.fetch")) == []
    here.put(card())  # who has it whole writes it again
    assert there.open(digest).digest == digest


def test_what_has_the_right_name_but_is_no_card_never_comes_into_the_folder(
    server: ObjectServer, tmp_path: Path
) -> None:
    rubbish = b"rubbish that is long enough to be looked at"
    (tmp_path / "file").write_bytes(rubbish)
    digest = LoRAFormat.digest_of(tmp_path / "file")
    stores.write(server, digest, rubbish)
    store = stores.at(server, tmp_path / "here")
    with pytest.raises(CardCorruptError):
        store.open(digest)
    assert store.local() == []


def test_a_small_card_goes_up_in_one_request_and_comes_down_once(
    s3: ObjectServer, tmp_path: Path
) -> None:
    here, there = stores.at(s3, tmp_path / "here"), stores.at(s3, tmp_path / "there")
    digest = here.put(card()).digest
    assert digest is not None
    assert [it for it in s3.asked() if not it.startswith(("HEAD", "GET"))] == [
        f"PUT {stores.key(s3, digest)}"
    ]
    s3.mend()
    there.open(digest)
    assert s3.asked().count(f"GET {stores.key(s3, digest)}") == 1
    s3.mend()
    there.open(digest)
    here.open(digest)
    assert s3.asked() == []


def test_what_is_large_goes_up_in_parts_and_comes_down_whole(
    server: ObjectServer, tmp_path: Path
) -> None:
    data = bytes(range(256)) * (11 << 12)  # 11 MB: more than a part of S3's has
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    objects = Objects(stores.place(server), "datasets", ".parquet")
    objects.put(digest, data)
    assert not objects.offer(digest, data)
    objects.fetch(digest, tmp_path / "there", len(data))
    assert (tmp_path / "there").read_bytes() == data


def test_what_is_written_again_while_it_is_read_is_read_again(
    gs: ObjectServer, tmp_path: Path
) -> None:
    # Google's client asks for what was there when it opened it, and is told that it is gone.
    digest = stores.at(gs, tmp_path / "here").put(card()).digest
    assert digest is not None
    for store in (stores.at(gs, tmp_path / "there"), stores.at(gs, tmp_path / "here")):
        gs.fail(query="alt=media", status=404, times=2)
        assert store.put(card()).digest == digest
        store.path(digest).unlink()
        gs.fail(query="alt=media", status=404, times=2)
        assert store.open(digest).digest == digest
