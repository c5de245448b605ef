"""The envelope on the wire: what goes out comes back, and what is wrong is said clearly."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from uuid import RFC_4122, UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import Event, FeedbackGiven, FleetStop

texts = st.text(max_size=60)
feedback = st.builds(
    FeedbackGiven,
    query=texts,
    relevant=st.lists(texts, max_size=3).map(tuple),
    irrelevant=st.lists(texts, max_size=3).map(tuple),
    domain=st.none() | st.from_regex(schemas.NAME_PATTERN, fullmatch=True),
    served=st.none() | st.just(()) | st.just(("sha256:" + "a" * 64,)),
)
events = st.builds(
    Event,
    data=feedback,
    source=st.text(min_size=1, max_size=20),
    id=st.text(min_size=1, max_size=40),
    time=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),
    correlation_id=st.none() | texts,
    sequence=st.none() | st.integers(1, 2**62),
    previous=st.none() | st.integers(0, 2**62),
    attachments=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
)


@given(events)
def test_an_event_survives_the_wire(event):
    assert schemas.from_frames(schemas.frames(event)) == event


def test_the_json_is_a_cloudevent():
    event = Event(data=FeedbackGiven(query="q", relevant=("p",)), source="/tool", id="7")
    written = json.loads(schemas.encode(event))
    assert written["specversion"] == "1.0"
    assert written["type"] == "feedback.given"
    assert (written["source"], written["id"]) == ("/tool", "7")
    assert written["datacontenttype"] == "application/json"
    assert written["data"] == {"query": "q", "relevant": ["p"]}


def test_absent_and_empty_served_are_different_things():
    absent = FeedbackGiven(query="q", relevant=())
    empty = FeedbackGiven(query="q", relevant=(), served=())
    for data in (absent, empty):
        assert schemas.decode(schemas.encode(Event(data=data, source="/t"))).data == data
    assert absent != empty


def test_unknown_attributes_and_fields_are_ignored():
    raw = json.dumps(
        {
            "specversion": "1.0",
            "id": "1",
            "source": "/later",
            "type": "fleet.stop",
            "colour": "blue",
            "data": {"service": "router", "urgency": 9},
        }
    ).encode()
    assert schemas.decode(raw).data == FleetStop(service="router")


def test_the_stamp_keeps_what_it_does_not_know():
    raw = b'{"specversion":"1.0","id":"1","source":"/s","type":"x.y","data":{"a":[1]},"later":true}'
    stamped = json.loads(schemas.stamp(raw, sequence=9, previous=4))
    assert stamped == {**json.loads(raw), "sequence": 9, "previous": 4}


@given(st.text(), st.text(), st.text(), st.integers(0, 9))
def test_a_derived_id_is_the_uuid_that_anybody_makes_of_it(source, cause, kind, ordinal):
    name = "\n".join((source, cause, kind, str(ordinal)))
    assert schemas.derived_id(source, cause, kind, ordinal) == str(uuid5(schemas.NAMESPACE, name))


def test_a_derived_event_is_the_same_event_when_derived_again():
    cause = Event(data=FeedbackGiven(query="q", relevant=()), source="/tool", id="1")
    once = cause.derive(FleetStop(), source="/a/1")
    again = cause.derive(FleetStop(), source="/a/1")
    assert once.id == again.id
    assert once.causation_id == "1"
    assert once.correlation_id == "1"
    assert cause.derive(FleetStop(), source="/a/1", ordinal=1).id != once.id
    other = Event(data=cause.data, source="/another", id="1")
    assert other.derive(FleetStop(), source="/a/1").id != once.id


@pytest.mark.parametrize(
    ("raw", "kind", "says"),
    [
        (b"{", schemas.MalformedEvent, "not a CloudEvents JSON event"),
        (b"\xff\xfe", schemas.MalformedEvent, "not a CloudEvents JSON event"),
        (b"[]", schemas.MalformedEvent, "object"),
        (
            b'{"specversion":"0.3","id":"1","source":"/s","type":"fleet.stop","data":{}}',
            schemas.MalformedEvent,
            "specversion",
        ),
        (
            b'{"specversion":"1.0","id":"","source":"/s","type":"fleet.stop","data":{}}',
            schemas.MalformedEvent,
            "non-empty id",
        ),
        (
            b'{"specversion":"1.0","id":"1","source":"/s","type":"no.such","data":{}}',
            schemas.UnknownType,
            "'no.such'",
        ),
        (
            b'{"specversion":"1.0","id":"1","source":"/s","type":"feedback.given","data":{}}',
            schemas.InvalidData,
            "query",
        ),
        (
            b'{"specversion":"1.0","id":"1","source":"/s","type":"domain.forget",'
            b'"data":{"domain":"../etc"}}',
            schemas.InvalidData,
            "domain",
        ),
    ],
)
def test_each_refusal_says_what_is_wrong(raw, kind, says):
    with pytest.raises(kind, match=says) as caught:
        schemas.decode(raw)
    assert caught.value.raw == raw or kind is schemas.UnknownType


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(raw):
    with pytest.raises(schemas.SchemaError):
        schemas.from_frames([b"feedback.given", raw])


def test_addresses_fit_their_types():
    stop = Event(data=FleetStop(), source="/s")
    raw = schemas.encode(stop)
    with pytest.raises(schemas.InvalidAddress):
        schemas.frames(Event(data=FleetStop(), source="/s", to="somebody"))
    with pytest.raises(schemas.InvalidAddress):
        schemas.frames(
            Event(data=schemas.EventRefused(id="1", code="malformed", message=""), source="/s")
        )
    with pytest.raises(schemas.InvalidAddress):
        schemas.from_frames([b"fleet.stop@me", raw])
    with pytest.raises(schemas.MalformedEvent, match="topic says"):
        schemas.from_frames([b"feedback.given", raw])
    with pytest.raises(schemas.MalformedEvent, match="two frames"):
        schemas.from_frames([b"fleet.stop"])
    with pytest.raises(schemas.MalformedEvent, match="UTF-8"):
        schemas.from_frames([b"\xff", raw])


def test_a_process_is_addressed_by_its_source():
    assert schemas.address_of("/encoder/2") == "encoder-2"


def test_ids_are_random_uuids_each_its_own():
    found = [UUID(schemas.Event(data=FleetStop(), source="/s").id) for _ in range(1000)]
    assert len(set(found)) == 1000
    assert {(each.version, each.variant) for each in found} == {(4, RFC_4122)}
    ones = [sum(each.int >> bit & 1 for each in found) for bit in range(128)]
    fixed = {48, 49, 50, 51, 64, 65}  # version and variant
    assert all(300 < count < 700 for bit, count in enumerate(ones) if 127 - bit not in fixed)


FORKED = """
import os
from schemas import ids
ids.new_id()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(ids.new_id())
"""


def test_a_process_that_forked_does_not_say_the_same():
    said = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True
    )
    assert len(set(said.stdout.split())) == 2


def test_a_type_that_is_said_twice_is_no_way_around_a_check():
    raw = schemas.encode(Event(data=FleetStop(), source="/s"))
    twice = raw.replace(b'"type":', b'"type":"skill.wanted","type":')
    with pytest.raises(schemas.SchemaError):
        schemas.from_frames([b"skill.wanted", twice])
    assert schemas.from_frames([b"fleet.stop", twice]).type == "fleet.stop"


@pytest.mark.parametrize("more", ["", ',"vendor":{"a":[1]}', ',"sequence":1', ',"previous":null'])
@pytest.mark.parametrize("space", ["", "  \n"])
def test_the_journal_numbers_an_event_and_changes_nothing_else(more, space):
    raw = schemas.encode(Event(data=FleetStop(service='"sequence"'), source="/s"))
    raw = (space + raw.decode()[:-1] + more + space + "}" + space).encode()
    stamped = json.loads(schemas.stamp(raw, sequence=7, previous=3))
    assert stamped == json.loads(raw) | {"sequence": 7, "previous": 3}


def test_a_plain_event_is_numbered_without_reading_it_again():
    raw = schemas.encode(Event(data=FleetStop(), source="/s"))
    assert schemas.stamp(raw, sequence=7, previous=3) == raw[:-1] + b',"sequence":7,"previous":3}'


@pytest.mark.parametrize("value", ["null", "5", "[]", "{}"])
def test_a_content_type_that_is_no_text_is_malformed(value: str) -> None:
    raw = (
        '{"specversion":"1.0","id":"a","source":"/s/1","type":"feedback.given",'
        f'"datacontenttype":{value},"data":{{"query":"q","relevant":["x"]}}}}'
    ).encode()
    for read in (schemas.decode, schemas.header):
        with pytest.raises(schemas.MalformedEvent):
            read(raw)
