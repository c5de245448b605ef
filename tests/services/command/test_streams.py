"""Standard streams that are closed, or whose reader goes away."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from tests.services.command.conftest import ROOT, Start
from tests.services.command.fake_fleet import FakeFleet


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("encode <&-", 2, "there is no line to encode"),
        ("feedback <&-", 2, "there is no feedback in it"),
        ("skills forget bank <&-", 2, "say --yes"),
        ("skills list >&-", 0, ""),
        ("skills list 2>&-", 0, ""),
    ],
)
def test_a_stream_that_is_closed_is_an_empty_one(
    fleet: FakeFleet, words: str, code: int, why: str
) -> None:
    line, redirection = words.rsplit(" ", 1)
    command = f"exec {shlex.quote(sys.executable)} -m services.command {line}"
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{command} --state {shlex.quote(str(fleet.state))} {redirection}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == code, ended.stderr
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_reader_that_goes_away_ends_it_quietly(start: Start, fleet: FakeFleet) -> None:
    process = start("watch", "--types", "fleet.heartbeat", "--json", "--state", fleet.state)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    assert process.stderr is not None
    assert process.wait(20) == 0
    assert process.stderr.read() == b""
