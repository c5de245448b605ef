"""The wire spoken by a tool that knows ZeroMQ and JSON only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.bus.kit import BrokerProcess, short_folder


class Tool:
    """Bare sockets; every wait has a deadline."""

    def __init__(self, folder: str) -> None:
        self.context = zmq.Context()
        self.publisher, self.subscriber, self.journal = (
            self.context.socket(kind) for kind in (zmq.PUB, zmq.SUB, zmq.DEALER)
        )
        for socket, name in (
            (self.publisher, "ingress"),
            (self.subscriber, "egress"),
            (self.journal, "journal"),
        ):
            socket.linger = 0
            socket.rcvtimeo = 5000
            socket.connect(f"ipc://{folder}/{name}.sock")
        self.count = 0

    def listen(self, *topics: str) -> None:
        for topic in topics:
            self.subscriber.subscribe(topic)
        self.subscriber.subscribe("_echo.1")
        assert self.subscriber.recv_multipart() == [b"_echo.1", b""]
        self.subscriber.subscribe("_ping.1")
        self.subscriber.rcvtimeo = 20
        for _ in range(200):
            self.publisher.send_multipart([b"_ping.1", b""])
            try:
                self.subscriber.recv_multipart()
                break
            except zmq.Again:
                continue
        self.subscriber.unsubscribe("_ping.1")
        self.subscriber.rcvtimeo = 5000

    def heard(self) -> tuple[str, dict[str, Any]]:
        while True:
            topic, event, *_ = self.subscriber.recv_multipart()
            if not topic.startswith(b"_ping"):
                return topic.decode(), json.loads(event)

    def ask(self, verb: str, request: object) -> tuple[str, Any]:
        self.count += 1
        name = str(self.count).encode()
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.journal.send_multipart([name, verb.encode(), body])
        answered, status, answer = self.journal.recv_multipart()
        assert answered == name
        return status.decode(), json.loads(answer)

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with short_folder() as state:
        process = BrokerProcess(state)
        process.start()
        yield process
        assert process.stop() == 0


@pytest.fixture
def tool(broker: BrokerProcess) -> Iterator[Tool]:
    made = Tool(f"{broker.state}/bus")
    yield made
    made.close()


def event(kind: str, name: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": name,
        "source": "/tool/1",
        "type": kind,
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "data": data,
        **more,
    }


def test_publish_and_subscribe(tool: Tool) -> None:
    tool.listen("peer.joined")
    sent = event("peer.joined", "p1", {"peer": "x", "endpoint": "y", "newer": [1]}, vendor=3)
    tool.publisher.send_multipart([b"peer.joined", json.dumps(sent).encode()])
    assert tool.heard() == ("peer.joined", sent)


def test_a_durable_event_over_ingress_gets_its_receipt(tool: Tool) -> None:
    tool.listen("feedback.given")
    sent = event("feedback.given", "i1", {"query": "q", "relevant": ["a"]}, vendor=3)
    frames = [b"feedback.given", json.dumps(sent).encode()]
    tool.publisher.send_multipart(frames)
    _, first = tool.heard()
    assert first["sequence"] > first["previous"]
    assert {k: v for k, v in first.items() if k not in ("sequence", "previous")} == sent
    tool.publisher.send_multipart(frames)  # the receipt was lost: sent again, answered again
    assert tool.heard()[1]["sequence"] == first["sequence"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"feedback.given"], None),
        ([b"\xff\xfe", b"{}"], None),
        ([b"feedback.given", b"\xff\x00"], None),
        ([b"no.such", json.dumps(event("no.such", "b1", {})).encode()], "unknown_type"),
        ([b"peer.left", json.dumps(event("peer.left", "b2", {"peer": 1})).encode()], "malformed"),
        ([b"peer.left", json.dumps(event("peer.joined", "b3", {})).encode()], "malformed"),
        ([b"fleet.stop@x", json.dumps(event("fleet.stop", "b4", {})).encode()], "malformed"),
        (
            [b"fleet.stop", json.dumps(event("fleet.stop", "b5", {"x": "y" * 2**20})).encode()],
            "too_large",
        ),
        (
            [
                b"domain.forget",
                json.dumps(event("domain.forget", "b6", {"domain": "d"})).encode(),
                b"x",
            ],
            "malformed",
        ),
    ],
)
def test_what_is_malformed_crashes_nobody(
    tool: Tool, frames: list[bytes], code: str | None
) -> None:
    tool.listen("event.refused@/tool/1")
    tool.publisher.send_multipart(frames)
    if code is not None:
        topic, refusal = tool.heard()
        assert topic == "event.refused@/tool/1"
        assert refusal["data"]["code"] == code
        assert refusal["data"]["id"] == json.loads(frames[1])["id"]
    assert tool.ask("heads", {})[0] == "ok"


def test_the_verbs(tool: Tool) -> None:
    first = event("learning.batch_rejected", "v1", {"batch_id": "b", "reason": "r"})
    second = event("domain.forget", "v2", {"domain": "law"})
    status, answer = tool.ask("append", {"events": [first, first]})
    assert status == "ok"
    assert answer["duplicates"] == [1]
    at = answer["sequences"][0]
    kinds = ["learning.batch_rejected"]
    status, page = tool.ask("read", {"types": kinds, "after": at - 1, "limit": 10})
    assert [e["id"] for e in page["events"]] == ["v1"]
    assert page["truncated"] is False
    asked = {
        "group": "tool",
        "types": kinds,
        "max": 4,
        "wait_ms": 0,
        "visibility_ms": 60_000,
        "start": "earliest",
    }
    (delivery,) = tool.ask("lease", asked)[1]["deliveries"]
    assert (delivery["attempt"], delivery["event"]["id"]) == (1, "v1")
    assert tool.ask("lease", {**asked, "wait_ms": 50}) == ("ok", {"deliveries": []})
    lease = {"lease": delivery["lease"]}
    assert tool.ask("extend", {**lease, "visibility_ms": 90_000}) == ("ok", {})
    assert tool.ask("defer", {**lease, "until": "2020-01-01T00:00:00Z"}) == ("ok", {})
    (delivery,) = tool.ask("lease", asked)[1]["deliveries"]
    assert tool.ask("nack", {"lease": delivery["lease"], "delay_ms": 0, "reason": "x"})[0] == "ok"
    (delivery,) = tool.ask("lease", asked)[1]["deliveries"]
    ack = {"leases": [delivery["lease"]], "publish": [second]}
    done = tool.ask("ack", ack)
    assert done[0] == "ok"
    assert done[1]["duplicates"] == []
    assert tool.ask("ack", ack) == ("ok", {**done[1], "duplicates": [0]})  # sent again
    status, error = tool.ask("ack", {"leases": [delivery["lease"]], "publish": []})
    assert (status, error["code"]) == ("error", "stale_lease")
    assert tool.ask("heads", {})[1]["heads"]["domain.forget"] == done[1]["sequences"][0]
    assert tool.ask("dead", {"action": "list"}) == ("ok", {"dead": []})
    erased = tool.ask("erase", {"types": ["domain.forget"], "where": {"domain": "law"}})
    assert erased == ("ok", {"erased": 1})


@pytest.mark.parametrize(
    ("verb", "request_", "code"),
    [
        ("nonsense", {}, "malformed"),
        ("append", b"{", "malformed"),
        ("append", b"\xff", "malformed"),
        ("append", {"events": [1]}, "malformed"),
        ("append", {"events": [event("no.such", "x", {})]}, "unknown_type"),
        ("append", {"events": [event("fleet.stop", "x", {})]}, "malformed"),
        ("append", {"events": [event("domain.forget", "x", {"domain": "UPPER"})]}, "malformed"),
        ("lease", {"group": "", "types": ["a"]}, "malformed"),
        ("lease", {"group": "g", "types": []}, "malformed"),
        ("lease", {"group": "g", "types": ["fleet.stop"]}, "malformed"),
        ("lease", {"group": "g", "types": ["no.such"]}, "unknown_type"),
        ("lease", {"group": "g", "types": ["domain.forget"] * 40_000}, "malformed"),
        ("nack", {"lease": "none"}, "stale_lease"),
        ("defer", {"lease": "none", "until": "2020-01-01T00:00:00"}, "malformed"),
        ("read", {"after": -1}, "malformed"),
        ("read", {"after": 2**70}, "malformed"),
        ("dead", {"action": "burn"}, "malformed"),
        ("append", b'{"events": [' + b"[" * 100_000, "malformed"),
    ],
)
def test_bad_requests_are_answered(tool: Tool, verb: str, request_: object, code: str) -> None:
    status, error = tool.ask(verb, request_)
    assert status == "error"
    assert error["code"] == code
    assert error["message"]


def test_a_receipt_bears_the_type_that_was_journaled(tool: Tool) -> None:
    tool.listen("domain.forget", "domain.forgotten")
    for kind in ("domain.forget", "domain.forgotten"):
        sent = event(kind, "r1", {"domain": "d"})
        tool.publisher.send_multipart([kind.encode(), json.dumps(sent).encode()])
        topic, receipt = tool.heard()
        assert topic == receipt["type"] == "domain.forget"


@pytest.mark.parametrize("kind", ["peer.left", "domain.forget"])
def test_what_others_could_not_read_is_refused(tool: Tool, kind: str) -> None:
    tool.listen("event.refused@/tool/1")
    sent = event(kind, "u1", {"peer": "x", "endpoint": "y", "domain": "d", "newer": "?"})
    raw = json.dumps(sent).encode().replace(b"?", b"\xff")
    tool.publisher.send_multipart([kind.encode(), raw])
    assert tool.heard()[1]["data"]["code"] == "malformed"
    deep = json.dumps(sent).encode().replace(b'"?"', b"[" * 100_000 + b"]" * 100_000)
    before = tool.ask("heads", {})
    tool.publisher.send_multipart([kind.encode(), deep])
    if kind == "domain.forget":
        status, error = tool.ask("append", b'{"events": [' + raw + b"]}")
        assert (status, error["code"]) == ("error", "malformed")
    assert tool.ask("heads", {}) == before


HALF = "\ud800"
"""Half of a surrogate pair: JSON can write it, no Unicode text holds it."""


def test_a_text_that_is_no_unicode_is_answered_to_who_waits(tool: Tool) -> None:
    tool.listen("event.refused@/tool/1", "encode.failed@me")
    asked = event("encode.requested", "h1", {"texts": [f"lost {HALF} card"], "reply_to": "me"})
    tool.publisher.send_multipart([b"encode.requested", json.dumps(asked).encode()])
    answers = dict(tool.heard() for _ in range(2))
    refused, failed = answers["event.refused@/tool/1"], answers["encode.failed@me"]
    assert (refused["data"]["id"], refused["data"]["code"]) == ("h1", "malformed")
    assert (failed["data"]["request_id"], failed["data"]["code"]) == ("h1", "invalid")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("feedback.given", {"query": HALF, "relevant": ["a"], "irrelevant": []}),
        ("feedback.given", {"query": "q", "relevant": [f"a{HALF}"], "irrelevant": []}),
        (
            "generation.observed",
            {
                "prompt": "p",
                "output": f"{HALF}!",
                "reference": "r",
                "entropy_before": 1.0,
                "entropy_after": 0.5,
            },
        ),
    ],
)
def test_what_people_say_enters_no_store_unless_it_is_unicode(
    tool: Tool, kind: str, data: dict[str, object]
) -> None:
    tool.listen("event.refused@/tool/1")
    before = tool.ask("heads", {})
    raw = json.dumps(event(kind, "h2", data)).encode()
    tool.publisher.send_multipart([kind.encode(), raw])
    assert tool.heard()[1]["data"]["code"] == "malformed"
    status, error = tool.ask("append", b'{"events": [' + raw + b"]}")
    assert (status, error["code"]) == ("error", "malformed")
    assert tool.ask("heads", {}) == before


def test_two_may_choose_the_same_word(tool: Tool, broker: BrokerProcess) -> None:
    tool.listen("peer.left")
    other = Tool(f"{broker.state}/bus")
    try:
        other.listen("peer.left")  # asks for an echo of the same word
    finally:
        other.close()


def test_requests_of_the_wrong_shape_are_answered(tool: Tool) -> None:
    tool.journal.send_multipart([b"7", b"heads"])
    assert tool.journal.recv_multipart()[:2] == [b"7", b"error"]
    tool.journal.send(b"")
    assert tool.journal.recv_multipart()[:2] == [b"", b"error"]
    assert tool.ask("heads", {})[0] == "ok"


def test_the_heartbeat_tells_the_heads(tool: Tool) -> None:
    tool.ask("append", {"events": [event("domain.forget", "h1", {"domain": "h"})]})
    tool.listen("fleet.heartbeat")
    _, beat = tool.heard()
    assert beat["source"] == "/broker/1"
    assert beat["data"]["service"] == "broker"
    assert beat["data"]["state"] == "ready"
    assert beat["data"]["heads"]["domain.forget"] >= 1
    assert beat["data"]["counters"]["journal_bytes_limit"] > 0
