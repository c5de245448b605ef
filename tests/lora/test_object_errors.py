"""What an object store that fails is said to be: away, or of no use until somebody mends it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lora.errors import CardNotFoundError, ConfigError, StoreAwayError, StoreRefusedError
from lora.object_place import ObjectPlace
from lora.objects import Objects
from tests.lora import stores
from tests.lora.cards import card
from tests.object_server import ENVIRONMENT, ObjectServer

NONE = "sha256:" + "1" * 64


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
    store = stores.at(s3, tmp_path / "here")
    s3.fail(**fault)
    digest = store.put(card()).digest
    assert s3.stored() == [stores.key(s3, digest).removeprefix(f"/{s3.bucket}/")]
    s3.fail(**fault)
    assert stores.at(s3, tmp_path / "there").open(digest).digest == digest


def test_what_passes_is_waited_for_at_google_too(gs: ObjectServer, tmp_path: Path) -> None:
    gs.fail(status=503)  # one each: after it Google's client is silent for a second or two
    digest = stores.at(gs, tmp_path / "here").put(card()).digest
    assert digest is not None
    assert gs.stored() == [stores.key(gs, digest).removeprefix(f"/{gs.bucket}/")]
    gs.fail(query="alt=media", status=429)
    assert stores.at(gs, tmp_path / "there").open(digest).digest == digest


def test_after_the_deadline_the_store_is_away_and_what_is_here_still_serves(
    server: ObjectServer, tmp_path: Path
) -> None:
    store = stores.at(server, tmp_path / "here", deadline=0.5)
    digest = store.put(card()).digest
    assert digest is not None
    server.fail(status=503, code="SlowDown", times=10_000)
    with pytest.raises(StoreAwayError, match=rf"the object store {server.url}.* is not to be had"):
        store.put(card("other"))
    assert store.local() == [digest]
    assert store.open(digest).digest == digest
    with pytest.raises(StoreAwayError):
        store.delete(digest)
    assert store.local() == [digest]


def test_a_store_that_takes_requests_and_says_nothing_is_away(
    server: ObjectServer, tmp_path: Path
) -> None:
    server.fail(hang=600, times=10_000)
    with pytest.raises(StoreAwayError, match="nothing was heard in time"):
        stores.at(server, tmp_path / "here", deadline=0.5).put(card())


def test_what_is_left_behind_at_the_deadline_touches_nothing_any_more(
    gs: ObjectServer, tmp_path: Path
) -> None:
    digest = stores.at(gs, tmp_path / "here").put(card()).digest
    assert digest is not None
    gs.fail(query="alt=media", hang=1.0)
    before = set(threading.enumerate())
    objects = Objects(stores.place(gs), "cards", ".lora.arrow", deadline=0.5)
    with pytest.raises(StoreAwayError, match="nothing was heard in time"):
        objects.fetch(digest, tmp_path / "fetched", 1 << 20)
    (tmp_path / "fetched").write_text("another's")
    (left,) = set(threading.enumerate()) - before
    left.join(30.0)
    assert not left.is_alive()
    assert (tmp_path / "fetched").read_text() == "another's"


@pytest.mark.parametrize(("kind", "deadline"), [("s3", 0.3), ("gs", 4.0)], ids=["s3", "gs"])
def test_a_store_that_nobody_answers_for_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, deadline: float
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    place = ObjectPlace(f"{kind}://fleet/a", "http://127.0.0.1:1")
    with pytest.raises(
        StoreAwayError, match=r"127\.0\.0\.1:1 is not to be had for fetching.*onnect"
    ):
        stores.machine(tmp_path, place, deadline=deadline).open(NONE)


@pytest.mark.parametrize(
    ("kind", "fault", "why"),
    [
        pytest.param("s3", {"code": "AccessDenied"}, "do not allow it", id="denied"),
        pytest.param(
            "s3", {"code": "InvalidAccessKeyId"}, "do not allow it|not known", id="unknown key"
        ),
        pytest.param("s3", {"code": "ExpiredToken", "status": 400}, "status 400", id="expired"),
        pytest.param(
            "s3", {"code": "PermanentRedirect", "status": 301}, "another region", id="region"
        ),
        pytest.param("gs", {"status": 403}, "the credentials do not allow it", id="denied, Google"),
        pytest.param("gs", {"status": 401}, "missing, or not valid", id="not valid, Google"),
        pytest.param("gs", {"status": 400}, "not understood there", id="refused, Google"),
        pytest.param("gs", {"status": 301}, "not understood there", id="moved, Google"),
        pytest.param(
            "gs", {"status": 200, "body": "<p>Hello</p>"}, "not understood there", id="no store"
        ),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    fault: dict[str, str | int],
    why: str,
) -> None:
    server: ObjectServer = request.getfixturevalue(kind)
    store = stores.at(server, tmp_path / "here", deadline=1000)
    for work in (
        lambda: store.put(card()),
        lambda: store.open(NONE),
        lambda: store.delete(NONE),
        store.digests,
    ):
        server.fail(**{"status": 403, "times": 1000, **fault})
        with pytest.raises(StoreRefusedError, match=why) as found:
            work()
        assert "error_info" not in str(found.value)
        server.mend()
    assert store.local() == []


def test_what_may_be_listed_and_not_read_is_told_at_once(gs: ObjectServer, tmp_path: Path) -> None:
    digest = stores.at(gs, tmp_path / "here").put(card()).digest
    assert digest is not None
    gs.fail(query="alt=media", status=403, times=1000)
    with pytest.raises(StoreRefusedError, match="the credentials do not allow it"):
        stores.at(gs, tmp_path / "there", deadline=1000).open(digest)


def test_without_credentials_nothing_is_done(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreRefusedError, match="credentials are missing"):
        stores.at(s3, tmp_path / "here", deadline=1000).put(card())
    assert s3.stored() == []


@pytest.mark.parametrize(
    ("key", "account"),
    [
        pytest.param("no/such.json", None, id="no such file"),
        pytest.param("empty.json", None, id="no key in it"),
        pytest.param(None, "no-such-host.invalid", id="not a machine of Google's"),
        pytest.param(None, "server", id="a machine without an account"),
    ],
)
def test_without_credentials_google_is_not_asked(
    gs: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    account: str | None,
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if key is not None:
        (tmp_path / "empty.json").write_text("{}")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / key))
    if account is not None:
        gs.fail(status=404, times=1000)
        host = f"127.0.0.1:{gs.port}" if account == "server" else account
        monkeypatch.setenv("GCE_METADATA_ROOT", host)
    place = ObjectPlace("gs://fleet/a", "https://127.0.0.1:1")
    store = stores.machine(tmp_path / "here", place, deadline=1000)
    for work in (lambda: store.put(card()), store.digests):
        with pytest.raises(StoreRefusedError, match="credentials are missing, or cannot be used"):
            work()


def test_a_bucket_that_is_not_there_is_told_from_a_card_that_is_not(
    server: ObjectServer, tmp_path: Path
) -> None:
    place = ObjectPlace(f"{server.kind}://no-such-bucket/a", server.endpoint)
    store = stores.machine(tmp_path / "here", place, deadline=1000)
    for work in (
        lambda: store.put(card()),
        lambda: store.open(NONE),
        lambda: store.delete(NONE),
        store.digests,
    ):
        with pytest.raises(StoreRefusedError, match="no such bucket"):
            work()
    assert stores.at(server, tmp_path / "there").digests() == []
    with pytest.raises(CardNotFoundError):
        stores.at(server, tmp_path / "there").open(NONE)


@pytest.mark.parametrize("given", [{"region": "eu-west-1"}, {"ca_file": "/a.pem"}], ids=str)
@pytest.mark.parametrize("url", ["gs://fleet/a", "file:///a"])
def test_what_is_for_s3_alone_is_refused_elsewhere(url: str, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="are for s3:// alone"):
        ObjectPlace(url, **given)
