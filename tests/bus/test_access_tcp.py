"""Who may do what on tcp, tried with real keys over real sockets."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import sys
import termios
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq

import bus
from bus.connected import Connection
from bus.security import admit, revoke
from schemas import (
    EncodeCompleted,
    EncodeRequested,
    Event,
    FeedbackGiven,
    FleetHeartbeat,
    FleetStop,
    SkillRetired,
    frames,
)
from tests.bus.guests import House, house, raw, vectors
from tests.bus.kit import eventually, feedback

GIVEN = {"query": "q", "relevant": ["a"]}
ASKED = {"texts": ["t"], "reply_to": "eve-1"}
RETIRED = SkillRetired(name="s", version=1, digest="sha256:" + "0" * 64, reason="r")


@pytest.fixture
async def home() -> AsyncIterator[House]:
    async with house() as found:
        yield found


def beat(service: str, instance: str, source: str) -> Event[Any]:
    data = FleetHeartbeat(
        service=service,
        instance=instance,
        pid=1,
        state="ready",
        queue=0,
        rss_bytes=1,
        counters={},
    )
    return Event(data=data, source=source)


# speaking


async def test_nobody_speaks_in_anothers_name(home: House) -> None:
    eve = home.guest("eve")
    event = raw("feedback.given", "/victim/1", GIVEN)
    code, why = await eve.ask("append", events=[json.loads(event)])
    assert code == "not_permitted"
    assert "speaks as /eve/…" in why
    await home.op.listen("feedback.given", "encode.requested")
    await eve.say(b"feedback.given", event)
    await eve.say(b"encode.requested", raw("encode.requested", "/victim/1", ASKED))
    await eve.say(b"encode.requested", raw("encode.requested", "/eve/1", ASKED))
    _topic, body = await home.op.next()
    assert b'"/eve/1"' in body
    assert (await home.op.ask("heads"))[1] == {"heads": {}}


async def test_nobodys_event_is_suppressed_by_its_id(home: House) -> None:
    eve, victim = await home.bus("eve"), await home.bus("victim")
    forged = feedback(1, domain="poison", source="/victim/1")
    with pytest.raises(bus.NotPermitted):
        await eve.publish(forged)
    bare = home.guest("eve")
    await bare.say(*frames(forged))
    await bare.say(*frames(feedback(9, source="/eve/1")))
    op = await home.bus("op")
    async with op.watch(FeedbackGiven, after=0) as events:
        assert (await events.get(10)).id == "f9"  # the forged one came before it, and is nowhere
    assert await victim.publish(feedback(1, domain="true", source="/victim/1")) == (2,)
    assert [each.data.domain for each in (await op.read(FeedbackGiven)).events] == [None, "true"]


@pytest.mark.parametrize(
    "topic",
    ["encode.completed@victim-1", "encode.failed@victim-1", "adapter.load@encoder-1", "fleet.stop"],
)
async def test_a_client_neither_answers_nor_loads_nor_stops(home: House, topic: str) -> None:
    eve, kind = home.guest("eve"), topic.partition("@")[0]
    data: dict[str, dict[str, Any]] = {
        "encode.completed": {
            "request_id": "r", "model": "m", "dim": 2, "rows": [], "tokens": 1, "queue_ms": 0.0,
            "compute_ms": 0.0, "attachments": [],
        },
        "encode.failed": {"request_id": "r", "code": "internal", "message": "no"},
        "adapter.load": {"digest": "sha256:" + "0" * 64},
        "fleet.stop": {},
    }  # fmt: skip
    await home.op.listen(topic)
    await eve.listen("event.refused@/eve/1")
    await eve.say(topic.encode(), raw(kind, "/eve/1", data[kind]))
    told, body = await eve.next()
    assert told == b"event.refused@/eve/1"
    assert b"not_permitted" in body
    await home.mark(home.op)
    assert await home.op.heard() == []


async def test_an_order_that_is_durable_is_refused_with_an_answer(home: House) -> None:
    eve = home.guest("eve")
    order = json.loads(raw("domain.forget", "/eve/1", {"domain": "d"}))
    assert (await eve.ask("append", events=[order]))[0] == "not_permitted"
    one = await home.bus("eve")
    with pytest.raises(bus.NotPermitted, match=r"may not publish skill\.retired"):
        await one.publish(Event(data=RETIRED, source="/eve/1"))


async def test_answers_go_to_who_asked(home: House) -> None:
    eve = home.guest("eve")
    await home.op.listen("encode.requested")
    await eve.listen("event.refused@/eve/1")
    stolen = raw("encode.requested", "/eve/1", {"texts": ["t"], "reply_to": "victim-1"})
    await eve.say(b"encode.requested", stolen)
    assert b"victim-1" in (await eve.next())[1]
    await home.mark(home.op)
    assert await home.op.heard() == []


async def test_a_refusal_is_told_to_nobody_else(home: House) -> None:
    """Else a stranger's nonsense would fail the request of another that waits under that id."""
    victim, eve = home.guest("victim"), home.guest("eve")
    await victim.listen("event.refused@/victim/1", "encode.failed@victim-1")
    for data in ({"texts": 7, "reply_to": "victim-1"}, {"texts": ["t"], "reply_to": "victim-1"}):
        await eve.say(b"encode.requested", raw("encode.requested", "/victim/1", data))
    await victim.listen("_ping.end")
    await eve.say(b"_ping.end", b"")
    assert await victim.heard() == []


async def test_an_encoder_speaks_for_itself(home: House) -> None:
    home.key("gpu", role="encoder", sources=["/encoder/gpu"])
    gpu = await home.bus("gpu", "/encoder/gpu")
    await home.op.listen("fleet.heartbeat", "fleet.stop")
    await gpu.publish(beat("router", "1", "/encoder/gpu"))
    await gpu.publish(beat("encoder", "1", "/encoder/gpu"))
    await gpu.publish(Event(data=FleetStop(), source="/encoder/gpu"))
    await gpu.publish(beat("encoder", "gpu", "/encoder/gpu"))
    _, body = await home.op.next()
    assert b'"instance":"gpu"' in body
    with pytest.raises(bus.NotPermitted):
        await gpu.publish(feedback(1, source="/encoder/gpu"))
    with pytest.raises(bus.NotPermitted):
        await home.bus("gpu", "/encoder/gpu2")


# hearing


async def test_what_is_anothers_is_not_heard(home: House) -> None:
    eve = home.guest("eve")
    await eve.listen("")
    op = await home.bus("op")
    await op.publish(vectors("victim-1"), vectors("eve-1"))
    asked = EncodeRequested(texts=("private",), reply_to="op-1")
    await op.publish(Event(data=asked, source="/op/1"), beat("router", "1", "/router/1"))
    await op.publish(feedback(1, source="/op/1"), Event(data=RETIRED, source="/op/1"))
    await home.mark(eve)
    heard = sorted(await eve.heard())
    assert heard == ["encode.completed@eve-1", "fleet.heartbeat", "skill.retired"]
    assert eve.told is None  # narrowed, not refused


async def test_asking_for_anothers_is_refused_and_told(home: House) -> None:
    eve = home.guest("eve")
    await eve.listen("encode.completed@victim-1", "feedback.given", "fleet.heartbeat")
    assert eve.told is not None
    assert eve.told["code"] == "not_permitted"
    assert eve.told["topics"] == ["encode.completed@victim-1", "feedback.given"]
    one = await home.bus("eve")
    with pytest.raises(bus.NotPermitted, match=r"encode\.completed@victim-1"):
        async with one.watch(EncodeCompleted, to="victim-1"):
            pass
    async with one.watch(FleetHeartbeat):
        pass
    with pytest.raises(bus.NotPermitted, match="which speaks as /eve/"):
        await home.bus("eve", "/victim/1")


async def test_a_name_that_begins_like_another_hears_nothing_of_it(home: House) -> None:
    home.key("ev")
    ev = home.guest("ev")
    await ev.listen("encode.completed@ev", "encode.completed@", "encode.")
    op = await home.bus("op")
    await op.publish(vectors("eve-1"), vectors("ev-1"))
    await home.mark(ev)
    assert await ev.heard() == ["encode.completed@ev-1"]


async def test_what_stands_for_a_wider_wish_stays_while_it_does(home: House) -> None:
    eve, op = home.guest("eve"), await home.bus("op")
    await eve.listen("", "fleet.heartbeat", "skill.")
    await eve.drop("fleet.heartbeat", "skill.")
    await op.publish(beat("router", "1", "/router/1"), vectors("eve-1"))
    await home.mark(eve)
    assert sorted(await eve.heard()) == ["encode.completed@eve-1", "fleet.heartbeat"]
    await eve.listen("fleet.heartbeat")
    await home.mark(eve)
    assert await eve.heard() == []
    await eve.drop("")
    await op.publish(vectors("eve-1"), beat("router", "1", "/router/1"))
    await home.mark(eve)
    assert await eve.heard() == ["fleet.heartbeat"]


def taken(connection: Connection, before: int) -> bool:
    """Whether the broker's own thread has read what came over a connection since."""
    waits = fcntl.ioctl(connection.descriptor, termios.FIONREAD, b"\0" * 4)
    return connection.came() > before and waits == b"\0" * 4


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what has come")
async def test_who_confuses_libzmq_gets_no_others_subscription(home: House) -> None:
    """Anything but a subscription makes libzmq take the next one for its successor's connection."""
    home.key("mallory", role="client")
    first, second, victim = (home.guest(name) for name in ("mallory", "mallory", "victim"))
    found: list[Connection] = []
    for one in (first, second, victim):
        await one.listen("fleet.heartbeat")  # whose a connection is shows now
        known = home.broker._connected["egress"].open.values()
        found += (each for each in known if each.key and each not in found)
    op = await home.bus("op")
    monitor: Any = second.egress.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    # All of it waits, in this order, when the broker, which lives in this loop, has its next turn:
    # one thread of libzmq reads all connections, and has read each before the next one speaks.
    for guest, connection, said in (
        (first, found[0], b"nonsense"),
        (victim, found[2], b"\1encode.completed@victim-1"),
        (second, found[1], b"\1encode.completed@mallory-1"),
    ):
        before = connection.came()
        zmq.Socket.send(guest.egress, said)
        end = time.monotonic() + 10
        while not taken(connection, before):
            assert time.monotonic() < end
            time.sleep(0.001)  # noqa: ASYNC251 (the loop is to stand still)
    await asyncio.wait_for(monitor.recv_multipart(), 10)
    second.egress.disable_monitor()
    monitor.close()
    assert home.may("mallory") is None
    # The victim's connection ended as well; it comes back, and what it asked for with it.
    await victim.listen()
    await op.publish(vectors("victim-1"))
    assert (await victim.next())[2] == b"secret of victim-1"
    assert not await second.egress.poll(0), "nothing comes over a connection that has ended"


# the journal


async def test_the_journal_answers_as_far_as_the_role_goes(home: House) -> None:
    op, eve = await home.bus("op"), home.guest("eve")
    await op.publish(feedback(1, source="/op/1"), Event(data=RETIRED, source="/op/1"))
    for verb, request in (
        ("read", {"types": ["feedback.given"]}),
        ("read", {"types": ["skill.retired", "feedback.given"]}),
        ("lease", {"group": "distiller", "types": ["skill.retired"]}),
        ("ack", {"leases": ["x"]}),
        ("nack", {"lease": "x"}),
        ("extend", {"lease": "x", "visibility_ms": 1}),
        ("defer", {"lease": "x"}),
        ("dead", {"action": "list"}),
        ("groups", {}),
        ("drop", {"group": "distiller"}),
        ("erase", {"types": ["feedback.given"], "where": {"query": "q1"}}),
    ):
        assert (await eve.ask(verb, **request))[0] == "not_permitted", verb
    status, page = await eve.ask("read")
    assert status == "ok"
    assert [event["type"] for event in page["events"]] == ["skill.retired"]
    everything = {"feedback.given": 1, "skill.retired": 2}
    assert (await eve.ask("heads"))[1] == {"heads": everything}  # as heartbeats tell it
    (home.keys / "roles.toml").write_text('[deaf]\nsubscribe = ["skill.retired"]\n')
    home.key("bob", role="deaf")
    assert (await home.guest("bob").ask("heads"))[1] == {"heads": {"skill.retired": 2}}


async def test_a_service_consumes_and_an_admin_tends(home: House) -> None:
    home.key("monitor", role="service")
    service = await home.bus("monitor")
    await service.publish(feedback(1, source="/monitor/1"))
    async with service.consume("g", FeedbackGiven) as work:
        delivery = await work.get(10)
        with pytest.raises(bus.NotPermitted):  # nothing of it holds: neither ack nor event
            await delivery.ack(publish=[feedback(2, source="/eve/1")])
        await delivery.ack(publish=[feedback(2, source="/monitor/1")])
    with pytest.raises(bus.NotPermitted, match="no dead"):
        await service.dead_letters()
    for asked in (service.groups(), service.drop_group("g")):
        with pytest.raises(bus.NotPermitted, match="no groups"):
            await asked
    bare = home.guest("monitor")
    await bare.listen("event.refused@/monitor/1")
    await bare.say(b"fleet.stop", raw("fleet.stop", "/monitor/1", {}))
    assert b"may not publish fleet.stop" in (await bare.next())[1]
    op = await home.bus("op")
    assert await op.dead_letters() == ()
    assert [group.name for group in await op.groups()] == ["g"]
    assert await op.drop_group("g") is not None


async def test_feedback_is_counted_by_key(home: House) -> None:
    (home.keys / "roles.toml").write_text(
        '[few]\npublish = ["feedback.given"]\nfeedback_per_hour = 3\n'
    )
    home.key("bob", role="few")
    one, two = await home.bus("bob"), await home.bus("bob", "/bob/2")
    with pytest.raises(bus.OverQuota, match="3 pieces"):
        await one.publish(*(feedback(n, source="/bob/1") for n in range(4)))  # all or none
    await one.publish(*(feedback(n, source="/bob/1") for n in range(2)))
    await two.publish(feedback(5, source="/bob/2"))
    for guest, source in ((one, "/bob/1"), (two, "/bob/2")):
        with pytest.raises(bus.OverQuota):
            await guest.publish(feedback(6, source=source))
    assert (await (await home.bus("eve")).publish(feedback(7, source="/eve/1"))) == (4,)


async def test_texts_are_counted_by_key_where_a_role_says_so(home: House) -> None:
    (home.keys / "roles.toml").write_text(
        '[few]\npublish = ["encode.requested"]\nsubscribe = ["encode.failed"]\n'
        "texts_per_minute = 3\n"
    )
    home.key("bob", role="few")
    bob = home.guest("bob")
    await bob.listen("encode.failed@bob-1", "event.refused@/bob/1")
    assert home.broker.door is not None
    once, moment = home.broker.door.ring.grants["bob"]._asked, time.monotonic()
    once._clock = once._quota._clock = lambda: moment  # nothing comes back while this runs
    await home.op.listen("encode.requested")

    async def ask(name: str, texts: int, source: str = "/bob/1", **more: Any) -> None:
        data = {"texts": ["t"] * texts, "reply_to": "bob-1", **more}
        await bob.say(b"encode.requested", raw("encode.requested", source, data, name))

    await ask("two", 2)
    await ask("two", 2)  # sent again, since nobody has answered yet
    await ask("much", 2)
    await ask("intent", 1, intent="what it is about")
    await ask("other", 2, "/bob/2")
    await ask("one", 1)
    await ask("whole", 4)
    eve = home.guest("eve")
    ready = raw("encode.requested", "/eve/1", {"texts": ["t"] * 999, "reply_to": "eve-1"}, "eve")
    await eve.say(b"encode.requested", ready)

    heard = [json.loads((await home.op.next())[1]) for _ in range(4)]
    assert sorted(event["id"] for event in heard) == ["eve", "one", "two", "two"]
    for name in ("much", "intent", "other"):
        topic, body = await bob.next()
        answer = json.loads(body)
        assert topic == b"encode.failed@bob-1", "event.refused would end the request"
        assert (answer["correlationid"], answer["data"]["request_id"]) == (name, name)
        assert answer["data"]["code"] == "overloaded"
        assert "3 texts embedded a minute" in answer["data"]["message"]
        assert 0 < answer["data"]["retry_after_ms"] <= 20_000
    refused = json.loads((await bob.next())[1])["data"]
    assert (refused["code"], refused["request_id"]) == ("too_large", "whole")
    assert "retry_after_ms" not in refused


# being shown out


async def test_a_revoked_key_hears_and_says_nothing_more(home: House) -> None:
    home.key("temp", role="service")
    guest, op = home.guest("temp"), await home.bus("op")
    await guest.listen("")
    await guest.say(b"_ping.live", b"")
    ends = guest.egress.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    locked_out = guest.journal.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    silenced = guest.ingress.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    lease = json.dumps({"group": "g", "types": ["feedback.given"], "wait_ms": 60_000}).encode()
    await guest.journal.send_multipart([b"waits", b"lease", lease])
    assert (await guest.ask("heads"))[0] == "ok"

    revoke(home.keys, "temp")

    answer = await asyncio.wait_for(guest.journal.recv_multipart(), 10)
    assert answer == [b"waits", b"ok", b'{"deliveries":[]}']
    assert await asyncio.wait_for(ends.poll(10_000), 11)
    await op.publish(feedback(1, source="/op/1"))
    await guest.journal.send_multipart([b"2", b"read", b"{}"])
    assert await asyncio.wait_for(locked_out.poll(10_000), 11)
    await home.op.listen("fleet.heartbeat")
    await guest.ingress.send_multipart(frames(beat("temp", "1", "/temp/1")))
    assert await asyncio.wait_for(silenced.poll(10_000), 11)  # it came, and was the end
    await home.mark(home.op)
    assert await home.op.heard() == []
    assert not await guest.journal.poll(0)
    while await guest.egress.poll(0):  # what came before
        assert (await guest.egress.recv_multipart())[0] != b"feedback.given"
    monitors = ((guest.egress, ends), (guest.journal, locked_out), (guest.ingress, silenced))
    for monitored, monitor in monitors:
        monitored.disable_monitor()
        monitor.close()


async def test_rights_change_without_a_restart(home: House) -> None:
    eve = await home.bus("eve")
    admit(home.keys, "eve", role="observer")
    await eventually(lambda: home.may("eve") == "observer")
    with pytest.raises(bus.NotPermitted, match=r"observer.*may not publish feedback\.given"):
        await eve.publish(feedback(1, source="/eve/1"))


async def test_a_flood_of_refusals_is_a_few_lines(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    eve = home.guest("eve")
    with caplog.at_level(logging.WARNING):
        for n in range(100):
            event = {"specversion": "1.0", "id": str(n), "source": "/victim/1\nroot: all is well"}
            event |= {"type": "feedback.given", "data": GIVEN}
            assert (await eve.ask("append", events=[event]))[0] == "not_permitted"
    assert 0 < len(caplog.records) <= 12
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
