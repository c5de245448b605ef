"""How much, how fast and how often: counted on a clock of the test's own."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import flight

from services.federation.admission import Admission, answering, guarded
from services.federation.errors import PeerBusy
from services.federation.limits import Bucket, Ration, Slots


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_kept_by_all_who_draw_from_it_together() -> None:
    clock = Clock()
    bucket = Bucket(1000, clock=clock)
    assert [bucket.take(500), bucket.take(1000), bucket.take(1)] == [0.0, 0.5, 1.5]
    clock.now = 1.0
    assert bucket.take(999) == pytest.approx(0.501)
    clock.now = 100.0
    assert bucket.take(10**6) == 0.0, "nothing is saved up and nothing owed"
    assert bucket.take(1) == 1000.0
    assert Bucket(0).take(10**12) == 0.0


def test_slots_are_counted_in_all_and_for_each() -> None:
    slots = Slots(3, 2)
    with ExitStack() as stack:
        for holder in ("a", "a"):
            stack.enter_context(slots.hold(holder))
        with pytest.raises(PeerBusy, match="2 transfers to a"):
            stack.enter_context(slots.hold("a"))
        stack.enter_context(slots.hold("b"))
        with pytest.raises(PeerBusy, match="3 transfers are under way"):
            stack.enter_context(slots.hold("c"))
        assert slots.held == 3
    assert slots.held == 0
    with pytest.raises(ZeroDivisionError), slots.hold("a"):
        1 / 0  # noqa: B018
    assert slots.held == 0


def test_a_slot_without_progress_is_lost_only_to_who_asks() -> None:
    clock = Clock()
    slots = Slots(1, 1, stall=10.0, clock=clock)
    with slots.hold("slow") as slow:
        clock.now = 50.0
        assert slots.progress(slow), "nobody asked"
        clock.now = 59.0
        with pytest.raises(PeerBusy), slots.hold("fast"):
            pass
        assert slots.progress(slow, pause=30.0)
        clock.now = 95.0
        with pytest.raises(PeerBusy), slots.hold("fast"):
            pass  # the pause was our own
        clock.now = 101.0
        with slots.hold("fast") as fast:
            assert not slots.progress(slow)
            assert slots.progress(fast)
            assert slots.held == 1
    assert slots.held == 0


def test_slots_are_never_more_than_they_are_whoever_comes_at_once() -> None:
    slots, most, inside = Slots(4, 4), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(300):
            try:
                with slots.hold("a"):
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with lock:
                        inside[0] -= 1
            except PeerBusy:
                pass

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most[0] <= 4
    assert slots.held == 0


def test_a_ration_is_given_out_once_in_its_time() -> None:
    clock = Clock()
    ration = Ration(3, 2, 60.0, clock=clock)
    assert [ration.take("a") for _ in range(3)] == [True, True, False]
    clock.now = 30.0
    assert [ration.take(who) for who in ("b", "b", "c")] == [True, False, False]
    clock.now = 60.0
    assert [ration.take(who) for who in ("a", "a", "a")] == [True, True, False]
    clock.now = 1000.0
    assert [ration.take(who) for who in ("b", "b", "b")] == [True, True, False]


class Caller:
    """What Flight hands to a method."""

    def __init__(
        self, admission: Admission, peer: str = "ipv4:10.0.0.1:4711", name: str = ""
    ) -> None:
        info = SimpleNamespace(method=flight.FlightMethod.DO_GET)
        self.call = admission.start_call(info, {})
        self._peer, self._name = peer, name

    def get_middleware(self, name: str) -> Any:
        return self.call

    def peer(self) -> str:
        return self._peer

    def peer_identity(self) -> bytes:
        return self._name.encode()


@answering
def greet(server: object, context: Any, error: Exception | None = None) -> str:
    if error is not None:
        raise error
    return "hello"


def test_calls_are_counted_by_certificate_or_else_by_address() -> None:
    admission = Admission(most=5, each=2)
    with pytest.raises(flight.FlightUnavailableError, match="starts"):
        greet(None, Caller(admission))
    admission.closed = None
    first = Caller(admission, "ipv4:10.0.0.1:1")
    assert greet(None, first) == "hello"
    assert greet(None, Caller(admission, "ipv4:10.0.0.1:2")) == "hello"
    with pytest.raises(flight.FlightUnavailableError, match="too many"):
        greet(None, Caller(admission, "ipv4:10.0.0.1:3"))
    for port in range(2):
        named = Caller(admission, f"ipv4:10.0.0.1:{port}", "bob.consonance")
        assert greet(None, named) == "hello", "one address may be many nodes"
    with pytest.raises(flight.FlightUnavailableError):
        greet(None, Caller(admission, "ipv4:10.0.0.9:1", "bob.consonance"))
    first.call.call_completed(None)
    first.call.call_completed(None)
    assert greet(None, Caller(admission, "ipv4:10.0.0.1:4")) == "hello"
    assert greet(None, Caller(admission, "ipv6:%5B::1%5D:4")) == "hello"
    with pytest.raises(flight.FlightUnavailableError):
        greet(None, Caller(admission, "ipv6:%5B::2%5D:4"))  # five in all


def test_of_an_error_that_nobody_foresaw_a_peer_is_told_nothing() -> None:
    admission = Admission()
    admission.closed = None
    for error in (OSError(2, "No such file", "/secret/path"), KeyError("/secret"), ValueError("x")):
        with pytest.raises(flight.FlightServerError) as told:
            greet(None, Caller(admission), error)
        assert "secret" not in str(told.value)

    def broken() -> Any:
        yield 1
        raise OSError(2, "No such file", "/secret/path")

    items = guarded(broken(), "do_get")
    assert next(items) == 1
    with pytest.raises(flight.FlightServerError) as told:
        next(items)
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None
