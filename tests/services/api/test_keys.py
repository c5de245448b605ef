"""Keys: kept as hashes in a private file, heeded from the next request on."""

from __future__ import annotations

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.api.errors import KeysError
from services.api.keys import KeyStore


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore.of(tmp_path)


def test_a_token_is_found_by_every_store_and_kept_by_none(store: KeyStore) -> None:
    token = store.create("search", {"read"})

    assert re.fullmatch(r"csn_[A-Za-z0-9_-]{43}", token)
    found = KeyStore(store.path).find(token)
    assert found is not None
    assert (found.name, found.scopes) == ("search", ("read",))
    assert token not in store.path.read_text()
    assert token.removeprefix("csn_") not in store.path.read_text()
    assert store.find(token[:-1] + ("A" if token[-1] != "A" else "B")) is None
    assert store.find("") is None


def test_the_file_is_its_owners_alone(store: KeyStore) -> None:
    store.create("one", {"read"})
    store.create("two", {"read"})

    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [file.name for file in store.path.parent.iterdir()] == ["api.json"]


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"read"}, {"read"}),
        ({"feedback"}, {"read", "feedback"}),
        ({"admin"}, {"read", "feedback", "admin"}),
        ({"read", "feedback"}, {"read", "feedback"}),
    ],
    ids=["read", "feedback", "admin", "read-feedback"],
)
def test_a_scope_includes_those_before_it(
    store: KeyStore, given: set[str], allowed: set[str]
) -> None:
    key = store.find(store.create("key", given))

    assert key is not None
    assert {scope for scope in ("read", "feedback", "admin") if key.allows(scope)} == allowed  # type: ignore[arg-type]


def test_a_revoked_key_is_gone_for_every_store(store: KeyStore) -> None:
    other = KeyStore(store.path)
    token, kept = store.create("one", {"read"}), store.create("two", {"admin"})
    assert other.find(token) is not None

    assert store.revoke("one").name == "one"

    assert other.find(token) is None
    assert other.find(kept) is not None
    assert [key.name for key in other.list()] == ["two"]


@pytest.mark.parametrize(
    ("name", "scopes", "words"),
    [
        ("two words", {"read"}, "must match"),
        ("", {"read"}, "must match"),
        ("x" * 65, {"read"}, "must match"),
        ("new", set(), "not none"),
        ("new", {"read", "write"}, "read, feedback, admin, not read, write"),
        ("old", {"read"}, "there is a key 'old' already"),
    ],
    ids=["a-space", "no-name", "too-long", "no-scope", "no-such-scope", "taken"],
)
def test_what_makes_no_sense_changes_nothing(
    store: KeyStore, name: str, scopes: set[str], words: str
) -> None:
    store.create("old", {"read"})
    before = store.path.read_bytes()

    with pytest.raises(KeysError, match=re.escape(words)):
        store.create(name, scopes)

    assert store.path.read_bytes() == before


def test_an_unknown_name_is_not_revoked(store: KeyStore) -> None:
    with pytest.raises(KeysError, match="there is no key 'a'; known are none"):
        store.revoke("a")
    store.create("b", {"read"})
    with pytest.raises(KeysError, match="known are 'b'"):
        store.revoke("a")


def test_keys_made_at_the_same_time_are_all_kept(store: KeyStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(
            pool.map(lambda n: KeyStore(store.path).create(f"key-{n}", {"read"}), range(24))
        )

    assert len(store.list()) == 24
    assert all(store.find(token) for token in tokens)


def _open_to_others(path: Path) -> None:
    path.chmod(0o640)


def _no_json(path: Path) -> None:
    path.write_text("{")


def _no_hash(path: Path) -> None:
    kept = json.loads(path.read_text())
    kept["keys"][0]["sha256"] = "short"
    path.write_text(json.dumps(kept))


def _too_large(path: Path) -> None:
    path.write_text(" " * (1 << 20) + "{}")


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "harm", [_open_to_others, _no_json, _no_hash, _too_large, _a_folder, _a_pipe]
)
def test_a_file_that_cannot_be_used_lets_nobody_in(store: KeyStore, harm: object) -> None:
    token = store.create("key", {"read"})
    assert store.find(token) is not None

    harm(store.path)  # type: ignore[operator]

    for _ in range(2):  # what was read before does not count, not even the second time
        with pytest.raises(KeysError, match=re.escape(str(store.path))):
            store.find(token)
        with pytest.raises(KeysError):
            store.list()
