"""`docs/wire-protocol.md` is true: its examples are spoken to a real broker with bare pyzmq."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zmq

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "wire-protocol.md"
TEXT = DOCUMENT.read_text("utf-8")
LIMIT = 20.0  # seconds until the broker is given up
BOUND = re.compile(r"LEASE-\d")

pytestmark = pytest.mark.docs


@dataclass(frozen=True)
class Block:
    """One fenced JSON block and what its fence calls it."""

    label: str
    body: Any


def blocks() -> list[Block]:
    found = re.findall(r'^```json title="(.*?)"\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)
    return [Block(label, json.loads(body)) for label, body in found]


def block(label: str) -> Any:
    (found,) = (it.body for it in blocks() if it.label == label)
    return found


class Tool:
    """What any tool can do that knows ZeroMQ and JSON and nothing of this project."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.ingress = self._connect(zmq.PUB, folder / "ingress.sock")
        self.egress = self._connect(zmq.SUB, folder / "egress.sock")
        self.journal = self._connect(zmq.DEALER, folder / "journal.sock")
        self.asked = 0

    def _connect(self, kind: int, path: Path) -> "zmq.Socket[bytes]":
        socket: zmq.Socket[bytes] = self.context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = int(LIMIT * 1000)
        socket.connect(f"ipc://{path}")
        return socket

    def subscribe(self, *topics: str) -> None:
        for topic in (*topics, "_echo.tests"):
            self.egress.subscribe(topic)
        assert self.egress.recv_multipart() == [b"_echo.tests", b""]
        self.egress.unsubscribe("_echo.tests")

    def reach(self) -> None:
        """Return once what is published arrives."""
        self.subscribe("_ping.tests")
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            self.ingress.send_multipart([b"_ping.tests", b""])
            if self.egress.poll(50):
                assert self.egress.recv_multipart() == [b"_ping.tests", b""]
                break
        self.egress.unsubscribe("_ping.tests")
        while self.egress.poll(50):
            self.egress.recv_multipart()

    def hear(self, topic: str) -> Any:
        while True:
            frames = self.egress.recv_multipart()
            if frames[0].decode() == topic:
                return json.loads(frames[1])

    def ask(self, verb: str, body: Any) -> tuple[str, Any]:
        self.asked += 1
        name = b"%d" % self.asked
        self.journal.send_multipart([name, verb.encode(), json.dumps(body).encode()])
        answered, status, answer = self.journal.recv_multipart()
        assert answered == name
        return status.decode(), json.loads(answer)


@pytest.fixture
def tool(short_path: Path) -> Iterator[Tool]:
    bus, state = short_path / "bus", short_path / "state"
    broker = subprocess.Popen(
        [sys.executable, "-m", "bus", "--url", f"ipc://{bus}", "--state", str(state)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
    )
    made = Tool(bus)
    try:
        yield made
    finally:
        made.context.destroy(linger=0)
        broker.terminate()
        with broker:  # closes its pipe, too
            broker.wait(LIMIT)


def matches(said: Any, real: Any, names: dict[str, str]) -> bool:
    """True where `real` is what the document says; leases and messages are told, not compared."""
    if isinstance(said, dict):
        if "…" in said:
            said = {key: value for key, value in said.items() if key != "…"}
            real = {key: real.get(key) for key in said}
        return set(said) == set(real) and all(
            matches(value, real[key], names) for key, value in said.items()
        )
    if isinstance(said, list):
        pairs = zip(said, real, strict=False)
        return len(said) == len(real) and all(matches(one, other, names) for one, other in pairs)
    if isinstance(said, str) and BOUND.fullmatch(said):
        return names.setdefault(said, real) == real
    if said == "…":
        return isinstance(real, str) and bool(real)
    return bool(said == real)


def named(body: Any, names: dict[str, str]) -> Any:
    """The request with the real leases for those of the document."""
    return json.loads(BOUND.sub(lambda found: names[found.group()], json.dumps(body)))


def test_every_request_of_the_document_gets_the_answer_that_it_shows(tool: Tool) -> None:
    spoken = [it for it in blocks() if it.label.split()[0] in ("request", "reply", "error")]
    names: dict[str, str] = {}
    verbs = set()
    for request, reply in zip(spoken[::2], spoken[1::2], strict=True):
        kind, verb = request.label.split()
        assert kind == "request"
        verbs.add(verb)
        status, real = tool.ask(verb, named(request.body, names))
        assert status == ("ok" if reply.label == "reply" else "error"), (verb, request.body, real)
        assert matches(reply.body, real, names), (verb, request.body, real)
    headings = set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE))
    assert verbs == headings


@pytest.mark.parametrize("label", ["event", "generation"])
def test_a_durable_event_on_ingress_comes_back_with_its_number(tool: Tool, label: str) -> None:
    event = block(label)
    tool.reach()
    tool.subscribe(event["type"])

    tool.ingress.send_multipart([event["type"].encode(), json.dumps(event).encode()])
    receipt = tool.hear(event["type"])

    assert {key: receipt[key] for key in event} == event
    assert (receipt["sequence"], receipt["previous"]) == (1, 0)
    assert tool.ask("heads", {}) == ("ok", {"heads": {event["type"]: 1}})


def test_what_is_refused_on_ingress_is_answered_to_its_source(tool: Tool) -> None:
    event, answer = block("refused-event"), block("refused-answer")
    tool.reach()
    tool.subscribe("event.refused@/shop/1")

    tool.ingress.send_multipart([b"feedback.given", json.dumps(event).encode()])

    assert matches(answer, tool.hear("event.refused@/shop/1")["data"], {})


def test_a_live_event_reaches_who_listens_with_its_attachments(tool: Tool) -> None:
    event = block("encode-request")
    tool.reach()
    tool.subscribe("encode.requested")

    tool.ingress.send_multipart([b"encode.requested", json.dumps(event).encode()])

    assert tool.hear("encode.requested") == event


def test_the_broker_says_the_heads_of_the_journal(tool: Tool) -> None:
    tool.subscribe("fleet.heartbeat")
    tool.ask("append", {"events": [block("event")]})
    end = time.monotonic() + LIMIT
    while tool.hear("fleet.heartbeat")["data"]["heads"] != {"feedback.given": 1}:
        assert time.monotonic() < end


def catalogue_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_catalogue", ROOT / "docs" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_that_of_the_types() -> None:
    assert catalogue_tool().with_table(TEXT) == TEXT, "renew it: python docs/catalogue.py"


def test_every_error_code_on_the_wire_is_explained() -> None:
    from bus import errors

    codes = {kind.code for kind in vars(errors).values() if hasattr(kind, "code")}
    explained = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert codes <= explained


def test_every_endpoint_of_the_document_is_there(tool: Tool, short_path: Path) -> None:
    tool.ask("heads", {})
    for name in re.findall(r"`ipc:///path/to/folder/(\w+\.sock)`", TEXT):
        assert (short_path / "bus" / name).is_socket()
    assert (short_path / "bus").stat().st_mode & 0o777 == 0o700
