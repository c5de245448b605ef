"""The Python and the shell of the how-to pages run as they stand, against who plays a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import connect
from bus.security import make_client_keys
from lora import LoRAFormat
from lora.interop import export_peft
from services.fleet.plan import SERVICES
from tests.docs.snippets import DOCS, ROOT, Snippet, commands, of_text
from tests.lora import cards
from tests.services.api.kit import DIM, Door, Player, card, opened

ADDRESS = "http://127.0.0.1:8321"
LIMIT = 30.0

pytestmark = pytest.mark.docs


def on(page: str, kind: str, having: str = "") -> list[Snippet]:
    """The blocks of one page."""
    path = DOCS / page
    found = [one for one in of_text(path, path.read_text("utf-8")) if one.kind == kind]
    return [one for one in found if having in one.body]


def params(*found: Snippet) -> list[Any]:
    assert found
    return [pytest.param(one, id=one.name) for one in found]


HTTP = [on(f"how-to/{page}.md", "python", ADDRESS) for page in ("clients", "feedback")]
CURL = [on(f"how-to/{page}.md", "sh", "curl") for page in ("clients", "feedback")]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        door.player.cards = [card("banking", 3)]
        yield door


@pytest.mark.parametrize("snippet", params(*HTTP[0], *HTTP[1]))
async def test_clients_get_from_the_api_what_the_page_says(
    door: Door, snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    source = snippet.body.replace(ADDRESS, door.url)

    await asyncio.to_thread(exec, source, names)

    if "vector" in names:  # the openai package
        assert len(names["vector"]) == DIM
        assert "no_skills" in capsys.readouterr().out
    elif "stored" in names:
        assert len(getattr(names["stored"], "data", names["stored"])) == 2
        assert door.player.asked[-1].route == "base"
        assert len(names.get("found", range(DIM))) == DIM
    else:  # feedback
        assert names["answer"].status_code == 202


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("snippet", params(*CURL[0], *CURL[1]))
async def test_curl_is_answered(door: Door, snippet: Snippet) -> None:
    ((program, *words),) = commands(snippet)
    words = [word.replace(ADDRESS, door.url) for word in words]
    run = [program, "--silent", "--show-error", "--fail", *words]
    done = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said.get("id") or len(said["data"][0]["embedding"]) == DIM


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a skill's card, and what PEFT would have of it."""
    made = LoRAFormat.write(cards.card("banking"), tmp_path / "banking.lora.arrow")
    export_peft(made, tmp_path / "banking-peft")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("snippet", params(*on("how-to/adapters.md", "python")))
def test_adapters_come_and_go(
    folder: Path, snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(snippet.body, {})  # noqa: S102
    assert capsys.readouterr().out.strip() in {"(1, 6)", "['embedding']"}


@contextlib.contextmanager
def broker(state: Path, *urls: str) -> Iterator[str]:
    """A broker on the first of these URLs that is free."""
    words = [sys.executable, "-m", "bus", "--state", str(state), "--url"]
    for url in urls:
        process = subprocess.Popen([*words, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                assert process.stdout is not None
                if "ready" in process.stdout.readline():
                    yield url
                    return
            finally:
                process.terminate()
    raise AssertionError(f"no broker started on {urls}")


async def test_a_client_on_another_machine_gets_in_by_its_keys(short_path: Path) -> None:
    """The page's own commands make the keys, and its script uses them."""
    page = "how-to/several-machines.md"
    ((_, *words),) = commands(on(page, "console", "keys client laptop")[0])
    (exports,), (script,) = on(page, "sh", "export"), on(page, "python")
    state = short_path / "state"
    first = 21_000 + os.getpid() % 5000 * 3
    with broker(state, *(f"tcp://127.0.0.1:{first + 3 * n}" for n in range(20))) as url:
        made = [str(state) if word == "/var/lib/consonance" else word for word in words]
        run = [sys.executable, *made]
        said = await asyncio.to_thread(
            subprocess.run, run, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert said.stdout.strip() == str(state / "keys" / "laptop.key_secret")
        given = dict(re.findall(r"^export (\w+)=.*/(\S+)$", exports.body, re.MULTILINE))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | {
            name: url if name == "CONSONANCE_BUS" else str(state / "keys" / file)
            for name, file in given.items()
        }
        own = make_client_keys(state / "keys", "router", role="service")
        server = state / "keys" / "broker.key"
        bus = await connect(url, source="/router/1", key=own, server_key=server)
        async with bus:
            player = Player(bus)
            await player.start()
            try:
                run = [sys.executable, "-W", "error", "-c", script.body]
                done = await asyncio.to_thread(
                    subprocess.run, run, env=environment, capture_output=True, text=True
                )
            finally:
                await player.aclose()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"(1, {DIM}) ")


async def test_a_client_on_this_machine_needs_the_bus_alone(short_path: Path) -> None:
    (script,) = on("how-to/clients.md", "python", "FleetClient")
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(script.body, names)  # noqa: S102
    with broker(short_path / "state", f"ipc://{short_path / 'bus'}") as url:
        async with await connect(url, source="/router/1") as bus:
            player = Player(bus)
            await player.start()
            await asyncio.wait_for(names["main"](url), LIMIT)
            await player.aclose()
    assert [asked.role for asked in player.asked] == ["query", "document"]


def test_every_process_of_a_fleet_is_on_the_page_for_those_who_run_it() -> None:
    text = (DOCS / "how-to/operate.md").read_text("utf-8")
    table = text.split("## What runs\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(told) == sorted(["broker", *(role.service for role in SERVICES)])


def test_the_reasons_of_the_page_are_those_that_the_fleet_gives() -> None:
    text = (DOCS / "how-to/when-it-does-not-learn.md").read_text("utf-8")
    reasons = re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)
    assert len(reasons) > 5
    folders = ("lora/training", "services/distiller", "services/factory")
    files = [file for folder in folders for file in (ROOT / folder).glob("*.py")]
    source = "\n".join(file.read_text("utf-8") for file in files)
    assert [reason for reason in reasons if reason not in source] == []
