"""Cards in an object store: what one machine puts another one serves, and nothing is believed."""

from __future__ import annotations

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
    StoreAwayError,
    StoreRefusedError,
)
from lora.object_place import ObjectPlace
from lora.objects import Objects
from lora.remote_store import FOLDER, RemoteCardStore
from tests.lora.cards import card
from tests.object_server import ENVIRONMENT, ObjectServer

ROOM = 1 << 30

Machine = Callable[..., RemoteCardStore]


@pytest.fixture(params=["s3", "folder"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """Makes the store of one machine: each has a folder of its own, and all share one place."""
    place = ObjectPlace(f"file://{tmp_path}/shared")
    if request.param == "s3":
        place = _place(request.getfixturevalue("s3"))
    return lambda name="a", **given: _machine(tmp_path / name, place, **given)


def _machine(
    folder: Path,
    place: ObjectPlace,
    *,
    deadline: float = 20.0,
    room: int = ROOM,
    max_bytes: int = 1 << 20,
) -> RemoteCardStore:
    objects = Objects(place, FOLDER, ".lora.arrow", deadline=deadline)
    return RemoteCardStore(folder, objects, cache_bytes=room, max_bytes=max_bytes)


def _at(s3: ObjectServer, folder: Path, **given: float | int) -> RemoteCardStore:
    return _machine(folder, _place(s3), **given)  # type: ignore[arg-type]


def _place(s3: ObjectServer) -> ObjectPlace:
    return ObjectPlace(f"s3://{s3.bucket}/a/prefix", s3.endpoint)


def _key(s3: ObjectServer, digest: str | None) -> str:
    assert digest is not None
    name = digest.removeprefix("sha256:")
    return f"/{s3.bucket}/a/prefix/cards/{name}.lora.arrow"


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
    held = _machine(folder, ObjectPlace(f"file://{shared}")).open(digest)
    ends.send(held.digest)  # type: ignore[attr-defined]
    ends.recv()  # type: ignore[attr-defined]
    os._exit(0)  # as a kill would, with the card open


def test_a_card_that_another_process_has_open_is_not_evicted(tmp_path: Path) -> None:
    place = ObjectPlace(f"file://{tmp_path}/shared")
    far = _machine(tmp_path / "far", place)
    digests = [str(far.put(card(f"card-{i}")).digest) for i in range(3)]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_open_and_wait, args=(tmp_path / "near", tmp_path / "shared", digests[0], theirs)
    )
    child.start()
    assert ours.recv() == digests[0]
    near = _machine(tmp_path / "near", place, room=0)
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
    s3: ObjectServer, tmp_path: Path, made: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    here, there = _at(s3, tmp_path / "here"), _at(s3, tmp_path / "there")
    digest = here.put(card()).digest
    assert digest is not None
    s3.ask("PUT", _key(s3, digest), made(here.path(digest).read_bytes()))
    with pytest.raises(error, match=digest.removeprefix("sha256:")):
        there.open(digest)
    assert there.local() == []
    assert list(there.folder.glob(".*.fetch")) == []
    here.put(card())  # who has it whole writes it again
    assert there.open(digest).digest == digest


def test_what_has_the_right_name_but_is_no_card_never_comes_into_the_folder(
    s3: ObjectServer, tmp_path: Path
) -> None:
    rubbish = b"rubbish that is long enough to be looked at"
    (tmp_path / "file").write_bytes(rubbish)
    digest = LoRAFormat.digest_of(tmp_path / "file")
    s3.ask("PUT", _key(s3, digest), rubbish)
    store = _at(s3, tmp_path / "here")
    with pytest.raises(CardCorruptError):
        store.open(digest)
    assert store.local() == []


def test_a_small_card_goes_up_in_one_request_and_comes_down_once(
    s3: ObjectServer, tmp_path: Path
) -> None:
    here, there = _at(s3, tmp_path / "here"), _at(s3, tmp_path / "there")
    digest = here.put(card()).digest
    assert digest is not None
    assert [it for it in s3.asked() if not it.startswith(("HEAD", "GET"))] == [
        f"PUT {_key(s3, digest)}"
    ]
    s3.mend()
    there.open(digest)
    assert s3.asked().count(f"GET {_key(s3, digest)}") == 1
    s3.mend()
    there.open(digest)
    here.open(digest)
    assert s3.asked() == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 503, "code": "SlowDown", "times": 3}, id="busy"),
        pytest.param({"status": 500, "code": "InternalError", "times": 2}, id="broken"),
        pytest.param({"status": 429, "code": "TooManyRequests", "times": 2}, id="throttled"),
    ],
)
def test_what_passes_is_waited_for(
    s3: ObjectServer, tmp_path: Path, fault: dict[str, float | str | int]
) -> None:
    store = _at(s3, tmp_path / "here")
    s3.fail(**fault)  # type: ignore[arg-type]
    digest = store.put(card()).digest
    assert s3.stored() == [_key(s3, digest).removeprefix(f"/{s3.bucket}/")]
    s3.fail(**fault)  # type: ignore[arg-type]
    assert _at(s3, tmp_path / "there").open(digest).digest == digest


def test_after_the_deadline_the_store_is_away_and_what_is_here_still_serves(
    s3: ObjectServer, tmp_path: Path
) -> None:
    store = _at(s3, tmp_path / "here", deadline=0.5)
    digest = store.put(card()).digest
    s3.fail(status=503, code="SlowDown", times=10_000)
    with pytest.raises(StoreAwayError, match=r"the object store s3://.* is not to be had"):
        store.put(card("other"))
    assert store.local() == [digest]
    assert store.open(digest).digest == digest
    with pytest.raises(StoreAwayError):
        store.delete(digest)
    assert store.local() == [digest]


def test_a_store_that_takes_requests_and_says_nothing_is_away(
    s3: ObjectServer, tmp_path: Path
) -> None:
    s3.fail(hang=600, times=10_000)
    with pytest.raises(StoreAwayError, match="Timeout"):
        _at(s3, tmp_path / "here", deadline=0.5).put(card())


def test_a_store_that_nobody_answers_for_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    place = ObjectPlace("s3://fleet/a", "http://127.0.0.1:1")
    with pytest.raises(StoreAwayError, match=r"127\.0\.0\.1:1 is not to be had for fetching"):
        _machine(tmp_path, place, deadline=0.3).open("sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        pytest.param({"code": "AccessDenied"}, "do not allow it", id="denied"),
        pytest.param({"code": "InvalidAccessKeyId"}, "do not allow|not known", id="unknown key"),
        pytest.param({"code": "ExpiredToken", "status": 400}, "status 400", id="expired"),
        pytest.param({"code": "PermanentRedirect", "status": 301}, "another region", id="region"),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    s3: ObjectServer, tmp_path: Path, fault: dict[str, str | int], why: str
) -> None:
    store = _at(s3, tmp_path / "here", deadline=1000)
    for work in (
        lambda: store.put(card()),
        lambda: store.open("sha256:" + "1" * 64),
        store.digests,
    ):
        s3.fail(**{"status": 403, "times": 1000, **fault})  # type: ignore[arg-type]
        with pytest.raises(StoreRefusedError, match=why):
            work()
        s3.mend()
    assert store.local() == []


def test_without_credentials_nothing_is_done(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreRefusedError, match="credentials are missing"):
        _at(s3, tmp_path / "here", deadline=1000).put(card())
    assert s3.stored() == []


def test_a_bucket_that_is_not_there_is_told_from_a_card_that_is_not(
    s3: ObjectServer, tmp_path: Path
) -> None:
    place = ObjectPlace("s3://no-such-bucket/a", s3.endpoint)
    store = _machine(tmp_path / "here", place, deadline=1000)
    for work in (
        lambda: store.put(card()),
        lambda: store.open("sha256:" + "1" * 64),
        lambda: store.delete("sha256:" + "1" * 64),
        store.digests,
    ):
        with pytest.raises(StoreRefusedError, match="no such bucket"):
            work()
    assert _at(s3, tmp_path / "there").digests() == []
    with pytest.raises(CardNotFoundError):
        _at(s3, tmp_path / "there").open("sha256:" + "1" * 64)
