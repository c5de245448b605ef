"""compose.yaml's profile `nats`: four variables put the fleet on a server that knows it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from bus import NotPermitted, connect
from bus.nats.names import place_of
from containers.check.compose import services
from tests.bus.kit import free_port
from tests.bus.nats_server import nats_binary

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "compose.yaml").read_text("utf-8")
CONF = (ROOT / "containers" / "nats.conf").read_text("utf-8")


def said_in_conf(pattern: str) -> str:
    found = re.search(pattern, CONF)
    assert found
    return found[1]


def asked_for() -> dict[str, str]:
    """The variables as the head of the file tells them."""
    head = TEXT.partition("name: consonance")[0]
    return dict(re.findall(r"^#   ([A-Z_]+)=(\S+)$", head, re.M))


def test_the_file_s_own_words_put_every_service_on_nats_and_leave_the_broker_out() -> None:
    said = asked_for()
    found = services(ROOT / "compose.yaml", said)
    assert "CONSONANCE_NATS_PASSWORD" in said
    assert said.pop("COMPOSE_PROFILES") in found["nats"].raw["profiles"]
    assert found["broker"].raw["scale"] == "0"
    assert services(ROOT / "compose.yaml")["broker"].raw["scale"] == "1"
    (server,) = place_of(said["CONSONANCE_BUS"]).servers
    assert server == f"nats://nats:{said_in_conf('listen: .*:([0-9]+)')}"
    for name, one in found.items():
        handed_on = one.raw["environment"]["CONSONANCE_NATS_PASSWORD"]
        assert handed_on is None, "from the file .env, and not at all where that has none"
        assert one.environment["CONSONANCE_NATS_USER"] == "consonance"
        if name != "nats":
            assert one.environment["CONSONANCE_BUS"] == said["CONSONANCE_BUS"]


def test_the_server_has_no_rights_and_keeps_what_it_is_given() -> None:
    nats = services(ROOT / "compose.yaml")["nats"].raw
    assert nats["cap_drop"] == ["ALL"]
    assert nats["security_opt"] == ["no-new-privileges:true"]
    assert nats["read_only"] is True
    assert "ports" not in nats
    assert nats["volumes"] == ["nats:" + said_in_conf('store_dir: "(.*)"')]
    assert nats["configs"] == [{"source": "nats", "target": nats["command"][1]}]
    assert said_in_conf('http: "(.*)"') in nats["healthcheck"]["test"][-1]


def started(folder: Path, client: int, *, password: str | None) -> subprocess.Popen[bytes]:
    text = CONF.replace("0.0.0.0:4222", f"127.0.0.1:{client}").replace("/data", str(folder))
    file = folder / "nats.conf"
    file.write_text(text.replace("127.0.0.1:8222", f"127.0.0.1:{free_port()}"), "utf-8")
    environment = {**os.environ, "CONSONANCE_NATS_USER": "consonance"}
    if password is not None:
        environment["CONSONANCE_NATS_PASSWORD"] = password
    words = [nats_binary(), "--config", str(file)]
    return subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)


async def test_it_lets_in_who_knows_the_password(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    process = started(short_path, port, password="p0123")
    url = f"nats://127.0.0.1:{port}"
    monkeypatch.setenv("CONSONANCE_NATS_USER", "consonance")
    try:
        monkeypatch.setenv("CONSONANCE_NATS_PASSWORD", "p0123")
        async with await connect(url, source="/test/1"):
            pass
        monkeypatch.setenv("CONSONANCE_NATS_PASSWORD", "")
        with pytest.raises(NotPermitted):
            await connect(url, source="/test/1", patience=5)
    finally:
        process.kill()
        process.wait(20)


def test_without_a_password_it_does_not_start(short_path: Path) -> None:
    process = started(short_path, free_port(), password=None)
    try:
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.wait(20)
