"""Keys of the API and of the bus: made, listed and taken back."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from bus.__main__ import main as bus_main
from bus.access.keys import Ring
from bus.access.roles import READY
from bus.security import read_pair, speaker
from services.api.keys import KeyStore
from tests.services.command.conftest import Run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where `run` has its fleet."""
    return tmp_path / ".consonance"


def test_a_key_of_the_api_is_made_listed_and_taken_back(run: Run, state: Path) -> None:
    code, out, err = run("keys", "create", "search", "--scopes", "read", "feedback")
    assert (code, err) == (0, "")
    store = KeyStore.of(state)
    found = store.find(out.strip())
    assert found is not None
    assert found.scopes == ("read", "feedback")
    assert stat.S_IMODE((state / "keys/api.json").stat().st_mode) == 0o600
    # The token is told once
    assert out.strip() not in (state / "keys/api.json").read_text()
    made = json.loads(run("keys", "create", "admin", "--scopes", "admin", "--json").out)
    assert store.find(made["token"]) is not None
    keys = json.loads(run("keys", "list", "--json").out)["keys"]
    assert [(one["name"], one["scopes"]) for one in keys] == [
        ("search", ["read", "feedback"]),
        ("admin", ["admin"]),
    ]
    assert "search" in run("keys", "list").out
    assert run("keys", "revoke", "search").out == "search is revoked\n"
    assert "that was the last key" in run("keys", "revoke", "admin").err
    assert "there are no keys" in run("keys", "list").err


def test_a_key_of_the_bus_is_made_listed_and_taken_back(run: Run, state: Path) -> None:
    made = run("keys", "client", "laptop")
    assert (made.code, made.err) == (0, "")
    pair = Path(made.out.strip())
    assert stat.S_IMODE(pair.stat().st_mode) == 0o600
    gpu = ("gpu-1", "--role", "encoder", "--source", "/encoder/gpu-1")
    told = json.loads(run("keys", "client", *gpu, "--json").out)
    assert speaker(Path(told.pop("file"))) == "/encoder/gpu-1"
    assert told == {"name": "gpu-1", "role": "encoder"}

    ring = Ring(state / "keys")
    assert ring.admitted(read_pair(pair).public) == "laptop"
    clients = json.loads(run("keys", "list", "--json").out)["clients"]
    assert [(one["name"], one["role"], one["sources"]) for one in clients] == [
        ("gpu-1", "encoder", ["/encoder/gpu-1"]),
        ("laptop", "client", ["/laptop/"]),
    ]
    shown = run("keys", "list").out
    assert "/encoder/gpu-1" in shown
    assert read_pair(pair).secret.decode() not in shown

    assert run("keys", "revoke", "laptop").out == "laptop is revoked\n"
    ring.look()
    assert set(ring.grants) == {"gpu-1"}
    assert not pair.exists()


def test_what_one_command_makes_the_other_shows(
    run: Run, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("keys", "client", "laptop", "--role", "observer", "--source", "/a/", "/b/1")
    assert bus_main(["--state", str(state), "keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.split()[:2] == ["laptop", "observer"]
    assert listed.endswith("/a/… /b/1\n")
    assert bus_main(["--state", str(state), "keys", "roles"]) == 0
    assert capsys.readouterr().out.strip() == run("keys", "roles").out.strip()


def test_the_roles_are_shown_with_ones_own(run: Run, state: Path) -> None:
    (state / "keys").mkdir(parents=True)
    (state / "keys/roles.toml").write_text('[audit]\nsubscribe = ["skill.retired"]\n')
    found = json.loads(run("keys", "roles", "--json").out)["roles"]
    assert [one["name"] for one in found] == [*READY, "audit"]
    assert found[-1]["subscribe"] == ["skill.retired"]


def test_a_name_that_both_have_is_taken_back_where_it_is_said(run: Run, state: Path) -> None:
    run("keys", "create", "laptop")
    run("keys", "client", "laptop")
    code, out, err = run("keys", "revoke", "laptop")
    assert (code, out) == (2, "")
    assert "--of api or --of bus" in err
    told = json.loads(run("keys", "revoke", "laptop", "--of", "bus", "--json").out)
    assert told == {"name": "laptop", "of": "bus"}
    assert [one.name for one in KeyStore.of(state).list()] == ["laptop"]
    assert json.loads(run("keys", "revoke", "laptop", "--json").out)["of"] == "api"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("keys create no/name", "name must match"),
        ("keys create a --scopes write", "write"),
        ("keys revoke nobody", "there is no key 'nobody'"),
        ("keys revoke nobody --of api", "there is no key 'nobody'"),
        ("keys revoke ../broker", "there is no key '../broker'"),
        ("keys client no/name", "cannot name a client"),
        ("keys client a --role no", "there is no role 'no'"),
        ("keys client a --source a", "is no source"),
    ],
)
def test_wrong_input_is_one_sentence(run: Run, words: str, why: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_roles_that_cannot_be_used_are_one_sentence(run: Run, state: Path) -> None:
    (state / "keys").mkdir(parents=True)
    (state / "keys/roles.toml").write_text("nonsense")
    for words in ("keys roles", "keys client a"):
        code, out, err = run(*words.split())
        assert (code, out) == (2, "")
        assert "no TOML" in err
