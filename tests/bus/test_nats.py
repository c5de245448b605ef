"""What is NATS's own: its URLs, servers that go and come, users, limits, others' streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest

import bus
from bus.nats.names import place_of
from schemas import (
    EventRefused,
    FeedbackGiven,
    FleetStop,
    LearningBatchRejected,
    SkillListed,
    TrainingProgressed,
)
from tests.bus.kit import eventually, feedback, free_port, progress, question, rejected
from tests.bus.nats_server import NatsServer, nats_binary


@pytest.fixture
def url(nats_server: NatsServer) -> str:
    """A fleet of its own on the common server."""
    return f"{nats_server.url}/t{uuid4().hex[:12]}"


async def asked(server: str, verb: str, **body: Any) -> dict[str, Any]:
    """JetStream's own API, spoken without the bus."""
    client = await nats.connect(server)
    try:
        answer = await client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5)
        found: dict[str, Any] = json.loads(answer.data)
        return found
    finally:
        await client.close()


# URLs


@pytest.mark.parametrize(
    ("url", "servers", "fleet"),
    [
        ("nats://host", ["nats://host:4222"], "consonance"),
        ("tls://host:4443/", ["tls://host:4443"], "consonance"),
        ("nats://a:1,b:2/lab", ["nats://a:1", "nats://b:2"], "lab"),
        ("nats://me:secret@[::1]:1,b", ["nats://me:secret@[::1]:1", "nats://b:4222"], "consonance"),
    ],
    ids=["port", "tls", "several", "user"],
)
def test_a_url_names_servers_and_a_fleet(url: str, servers: list[str], fleet: str) -> None:
    place = place_of(url)
    assert (list(place.servers), place.fleet) == (servers, fleet)
    assert "secret" not in place.shown
    assert place.secured == url.startswith("tls")


@pytest.mark.parametrize(
    "url",
    ["nats://", "nats://host:port", "nats://host:70000", "nats://a,,b", "nats://a/B C", "http://a"],
    ids=["no host", "no number", "no port", "a gap", "no name", "another scheme"],
)
def test_a_url_that_cannot_be_used_is_told(url: str) -> None:
    with pytest.raises(bus.InvalidUrl):
        place_of(url)


def test_a_url_that_cannot_be_used_does_not_show_its_password() -> None:
    with pytest.raises(bus.InvalidUrl) as told:
        place_of("nats://me:secret@host:port,you:secret@b")
    assert "secret" not in str(told.value)


# order, beyond what every transport promises


async def test_what_one_sends_to_several_topics_arrives_in_order(url: str) -> None:
    async with (
        await bus.connect(url, source="/a/1") as one,
        await bus.connect(url, source="/b/1") as two,
        two.watch([TrainingProgressed, FleetStop]) as events,
    ):
        for n in range(300):
            await one.publish(progress(n))
            await one.publish(type(progress(n))(data=FleetStop(service=str(n)), source="/a/1"))
        seen = [(await events.get(5)).data for _ in range(600)]
    assert [data.type for data in seen] == ["training.progressed", "fleet.stop"] * 300


async def test_a_group_of_several_types_gets_them_in_the_order_of_the_journal(url: str) -> None:
    async with await bus.connect(url, source="/a/1") as one:
        for n in range(6):
            await one.publish(feedback(n), rejected(n))
        kinds = [FeedbackGiven, LearningBatchRejected]
        for most in (1, 5):
            async with one.consume(f"g{most}", kinds, max_leases=most) as work:
                for sequence in range(1, 13):
                    delivery = await work.get(5)
                    assert delivery.event.sequence == sequence
                    await delivery.ack()


async def test_a_consumer_that_is_frozen_is_one_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _, fleet = url.rpartition("/")
    monkeypatch.setattr("bus.nats.connection.ANSWER", 0.1)
    frozen = await nats.connect(server)  # hears the question, and says nothing
    async with await bus.connect(url, source="/a/1") as one:
        async with one.consume("g", FeedbackGiven):
            pass
        await frozen.subscribe(f"{fleet}.asked.g")
        await frozen.flush()
        with pytest.raises(bus.Consumed):
            await one.drop_group("g")
        await frozen.close()  # as it ends when its process is killed
        assert await one.drop_group("g") is not None


async def test_many_members_do_each_event_once(url: str) -> None:
    done: list[str] = []

    async def work(source: str) -> None:
        async with (
            await bus.connect(url, source=source) as member,
            member.consume("g", FeedbackGiven, max_leases=2) as deliveries,
        ):
            while len(done) < 60:
                try:
                    delivery = await deliveries.get(0.5)
                except TimeoutError:
                    continue
                derived = delivery.event.derive(
                    LearningBatchRejected(batch_id=delivery.event.id, reason="r"), source="/w/1"
                )
                await delivery.ack(publish=[derived])
                done.append(delivery.event.id)

    async with await bus.connect(url, source="/a/1") as one:
        await one.publish(*(feedback(n) for n in range(60)))
        async with asyncio.timeout(30):
            await asyncio.gather(*(work(f"/w/{n}") for n in range(4)))
        assert sorted(done) == sorted(f"f{n}" for n in range(60))
        assert len((await one.read(LearningBatchRejected)).events) == 60


# what is gone


async def test_what_was_erased_is_not_missed_and_what_was_purged_is(url: str) -> None:
    async with await bus.connect(url, source="/a/1") as one:
        await one.publish(*(feedback(n, domain="law" if n < 3 else None) for n in range(9)))
        assert await one.erase(FeedbackGiven, {"domain": "law"}) == 3
        assert not (await one.read(after=0)).truncated
        server, _, fleet = url.rpartition("/")
        assert (await asked(server, f"STREAM.PURGE.{fleet}", seq=6))["success"]
        async with one.watch(FeedbackGiven, after=0) as events:
            assert events.truncated
            assert (await events.get(5)).sequence == 6
        assert not (await one.read(after=5)).truncated


# limits


async def test_what_the_server_does_not_take_is_refused(url: str) -> None:
    async with await bus.connect(url, source="/test/1") as one:
        answer = question(one.address).derive(
            SkillListed(cards=()),
            source="/test/1",
            to=one.address,
            attachments=[bytes(9_000_000)],
        )
        async with one.watch(EventRefused, to="/test/1") as refusals:
            await one.publish(answer)
            refused = (await refusals.get(5)).data
        assert refused.code == "too_large"
        assert "max_payload" in refused.message


# servers


async def test_nobody_there_is_told_within_the_patience() -> None:
    with pytest.raises(bus.Unreachable, match="is it running"):
        await bus.connect(f"nats://127.0.0.1:{free_port()}", source="/a/1", patience=0.3)


async def test_a_stream_of_somebody_else_is_refused(nats_server: NatsServer) -> None:
    made = await asked(
        nats_server.url, "STREAM.CREATE.theirs", name="theirs", subjects=["theirs.x"]
    )
    assert "error" not in made
    with pytest.raises(bus.Refused, match="theirs has subjects"):
        await bus.connect(f"{nats_server.url}/theirs", source="/a/1", patience=5)


async def test_a_server_that_is_killed_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    nats_binary()
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with (
            await bus.connect(server.url, source="/a/1") as one,
            await bus.connect(server.url, source="/b/1") as two,
            two.watch(FeedbackGiven, after=0) as events,
            two.consume("g", FeedbackGiven) as work,
        ):
            await one.publish(*(feedback(n) for n in range(5)))
            held = await work.get(5)
            server.stop(kill=True)
            late = asyncio.create_task(one.publish(*(feedback(n) for n in range(3, 9))))
            ending = asyncio.create_task(held.ack(publish=[rejected(0)]))
            await eventually(lambda: not one.link.live)  # type: ignore[attr-defined]
            server.start()
            sequences = await late
            assert sequences[:2] == (4, 5)
            assert len(set(sequences)) == 6
            await ending
            seen = [await events.get(10) for _ in range(9)]
            assert [e.id for e in seen] == [f"f{n}" for n in range(9)]
            assert [e.sequence for e in seen] == sorted(e.sequence or 0 for e in seen)
            assert (await work.get(10)).event.id == "f1"
            assert len((await one.read(LearningBatchRejected)).events) == 1
            assert one.statistics().reconnects >= 1
    finally:
        server.stop()


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_bus_closes_in_time_though_its_server_does_not_answer(
    how: str, tmp_path: Path
) -> None:
    nats_binary()
    server = NatsServer(tmp_path)
    server.start()
    try:
        one = await bus.connect(server.url, source="/a/1", patience=10)
        one.patience = 0.5  # type: ignore[attr-defined]
        work = one.consume("g", FeedbackGiven)
        await work.__aenter__()
        if how == "frozen":
            server.freeze()
        else:
            server.stop(kill=True)
        answer = question(one.address).derive(
            SkillListed(cards=()), source="/a/1", to="b", attachments=[bytes(4_000_000)]
        )
        for _ in range(8):  # more than the sockets between them hold
            await one.publish(answer)
        durable = asyncio.create_task(one.publish(feedback(1)))
        waiting = asyncio.create_task(work.get())
        await asyncio.sleep(0)
        async with asyncio.timeout(25):
            await one.aclose()
            found = await asyncio.gather(durable, waiting, return_exceptions=True)
        assert all(isinstance(each, bus.BusError) for each in found), found
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        server.stop(kill=True)


USERS = """
authorization { users: [
  { user: all, password: a }
  { user: some, password: s, permissions: {
      publish: { deny: ["consonance.durable.learning.>"] }
      subscribe: { deny: ["consonance.live.training.progressed"] } } }
] }
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with users."""
    nats_binary()
    server = NatsServer(tmp_path_factory.mktemp("nats"), config=USERS)
    server.start()
    yield server
    server.stop()


async def test_who_is_not_admitted_is_told_at_once(guarded: NatsServer) -> None:
    with pytest.raises(bus.NotPermitted, match="does not admit"):
        await bus.connect(guarded.url, source="/a/1", patience=30)


async def test_what_a_user_may_not_do_is_told(guarded: NatsServer) -> None:
    place = guarded.url.replace("nats://", "nats://some:s@")
    async with await bus.connect(place, source="/a/1") as one:
        assert "some" not in one.url
        assert await one.publish(feedback(1)) == (1,)
        with pytest.raises(bus.NotPermitted):
            await one.publish(rejected(1))
        with pytest.raises(bus.NotPermitted, match=r"training\.progressed"):
            async with one.watch(TrainingProgressed):
                pass


async def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    nats_binary()
    server = NatsServer(tmp_path)
    server.without_jetstream()
    server.start()
    try:
        with pytest.raises(bus.Unreachable, match="JetStream"):
            await bus.connect(server.url, source="/a/1", patience=0.3)
    finally:
        server.stop()


@pytest.mark.parametrize("variable", ["CONSONANCE_NATS_CREDS", "CONSONANCE_NATS_CA"])
async def test_a_credential_that_is_no_file_is_told(
    variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/nowhere/at-all")
    with pytest.raises(bus.InvalidKey, match=variable):
        await bus.connect(url, source="/a/1", patience=5)
