"""The command, run in this process or in one of its own, against a fleet that stands still."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.command import main
from tests.services.command.fake_fleet import FakeFleet

ROOT = Path(__file__).resolve().parents[3]


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def fleet(short_path: Path) -> Iterator[FakeFleet]:
    with FakeFleet(short_path) as running:
        yield running


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ran(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return ran


@pytest.fixture
def on(run: Run, fleet: FakeFleet) -> Run:
    """Runs the command on the fleet that stands still."""
    return lambda *words: run(*words, "--state", fleet.state)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command in a process of its own, in an empty folder."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: object, **options: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [sys.executable, "-m", "services.command", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **{**pipes, **options},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not read is flushed in vain
                    pipe.close()
