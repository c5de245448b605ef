"""What `docs/wire-protocol.md` says of NATS, spoken to the bus by nats-py alone."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import BadRequestError, ServiceUnavailableError

import bus
import schemas
from schemas import EncodeCompleted, EncodeRequested, FeedbackGiven
from tests.bus.kit import feedback, rejected
from tests.bus.nats_server import NatsServer

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "wire-protocol.md").read_text("utf-8")
PART = TEXT.partition("## On NATS")[2].partition("\n## ")[0]


def block(label: str) -> bytes:
    """A JSON block of the page."""
    found = re.search(rf'^```json title="{label}"\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].encode()


class Tool:
    """What knows NATS, JSON and the page."""

    def __init__(self, client: Client, fleet: str) -> None:
        self.client = client
        self.fleet = fleet
        (table,) = re.findall(r"^```text\n(.*?)^```", PART, re.MULTILINE | re.DOTALL)
        lines = (re.split(r"\s{2,}", line, maxsplit=1) for line in table.splitlines())
        self._subjects = {meaning: subject for subject, meaning in lines}

    def subject(self, meaning: str) -> str:
        """The one that the page shows for it, with the fleet's own name."""
        (found,) = (it for what, it in self._subjects.items() if meaning in what)
        return found.replace("consonance", self.fleet, 1)

    async def ears(self, subject: str) -> Any:
        heard = await self.client.subscribe(subject)
        await self.client.flush()
        return heard


@pytest.fixture
async def url(nats_server: NatsServer) -> str:
    return f"{nats_server.url}/t{uuid4().hex[:12]}"


@pytest.fixture
async def service(url: str) -> AsyncIterator[bus.Bus]:
    """One of the fleet's processes."""
    async with await bus.connect(url, source="/encoder/1") as one:
        yield one


@pytest.fixture
async def tool(url: str, service: bus.Bus) -> AsyncIterator[Tool]:
    server, _, fleet = url.rpartition("/")
    client = await nats.connect(server)
    yield Tool(client, fleet)
    await client.close()


async def test_a_durable_event_is_stored_once_and_told(tool: Tool, service: bus.Bus) -> None:
    told = await tool.ears(tool.subject("once they are stored"))
    stream = tool.client.jetstream()
    subject = tool.subject("order-17")
    async with service.consume("auditors", FeedbackGiven) as work:
        answer = await stream.publish(subject, block("event"))
        delivery = await work.get(10)
        assert (delivery.event.id, delivery.event.sequence) == ("order-17", answer.seq)
        assert delivery.event.data.domain == "banking"
        await delivery.ack()
    message = await told.next_msg(10)
    assert int(message.headers["Nats-Sequence"]) == answer.seq
    assert json.loads(message.data) == json.loads(block("event"))
    with pytest.raises((BadRequestError, ServiceUnavailableError)) as refused:
        await stream.publish(subject, block("event"))
    assert refused.value.err_code == 10077
    # The fleet's own client gives it the same name.
    assert await service.publish(schemas.decode(block("event"))) == (answer.seq,)


async def test_what_was_said_before_is_read_from_the_stream(tool: Tool, service: bus.Bus) -> None:
    await service.publish(*(feedback(n) for n in range(5)))
    subject = tool.subject("order-17").rpartition(".")[0] + ".*"
    reader = await tool.client.jetstream().subscribe(subject, ordered_consumer=True)
    found = [await reader.next_msg(10) for _ in range(5)]
    assert [json.loads(message.data)["id"] for message in found] == [f"f{n}" for n in range(5)]
    assert [message.metadata.sequence.stream for message in found] == [1, 2, 3, 4, 5]


async def test_a_derived_event_is_named_by_its_id(tool: Tool, service: bus.Bus) -> None:
    event = feedback(1).derive(rejected(1).data, source="/w/1")
    (sequence,) = await service.publish(event)
    digest = blake2b(f":{event.id}".encode(), digest_size=16).hexdigest()
    subject = f"{tool.fleet}.durable.{event.type}.{digest}"
    message = await tool.client.jetstream().get_last_msg(tool.fleet, subject)
    assert message.seq == sequence
    # Another member made the same: it is the same event.
    assert await service.publish(msgspec.structs.replace(event, source="/w/2")) == (sequence,)


async def test_a_question_is_answered_with_an_attachment(tool: Tool, service: bus.Bus) -> None:
    answers = await tool.ears(tool.subject("addressed to shop-1"))
    async with service.watch(EncodeRequested) as questions:
        await tool.client.publish(tool.subject("a live event"), block("encode-request"))
        question = await questions.get(10)
    data = EncodeCompleted(
        request_id=question.id,
        model="m",
        dim=2,
        rows=(),
        tokens=1,
        queue_ms=0.0,
        compute_ms=0.0,
        attachments=("embedding",),
    )
    vectors = bytes(range(256)) * 4
    await service.publish(
        question.derive(data, source="/encoder/1", to=question.data.reply_to, attachments=[vectors])
    )
    message = await answers.next_msg(10)
    event, embedding = map(int, message.headers["Consonance-Lengths"].split(","))
    assert json.loads(message.data[:event])["data"]["request_id"] == "request-1"
    assert message.data[event:] == vectors
    assert len(vectors) == embedding


async def test_an_attachment_of_a_tool_is_heard(tool: Tool, service: bus.Bus) -> None:
    raw = b"""{"specversion": "1.0", "id": "a1", "source": "/tool/1", "type": "encode.completed",
        "data": {"request_id": "r", "model": "m", "dim": 2, "rows": [], "tokens": 1,
        "queue_ms": 0, "compute_ms": 0, "attachments": ["embedding"]}}"""
    subject = tool.subject("addressed to shop-1").rpartition("@")[0] + "@a%2Eb"
    async with service.watch(EncodeCompleted, to="a.b") as answers:
        lengths = {"Consonance-Lengths": f"{len(raw)},4"}
        await tool.client.publish(subject, raw + b"\x00\x01\x02\x03", headers=lengths)
        answer = await answers.get(10)
    assert answer.to == "a.b"
    assert [bytes(each) for each in answer.attachments] == [b"\x00\x01\x02\x03"]
