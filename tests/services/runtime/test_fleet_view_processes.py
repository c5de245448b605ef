"""Processes and requests as heartbeats tell them; time passes as the test says."""

from typing import Any

import pytest

from services.runtime.fleet_view_processes import (
    DROPPED,
    MOST,
    ROUTERS,
    STOPPED,
    Processes,
    Requests,
)
from services.runtime.fleet_view_status import Minute
from services.runtime.histogram import Histogram
from tests.services.runtime.fleet_view_kit import beat


def states(processes: Processes, now: float) -> dict[str, str]:
    return {f"{it.service}/{it.instance}": it.state for it in processes.snapshot(now)}


def test_a_process_that_is_silent_is_gone_and_later_forgotten() -> None:
    processes = Processes()
    processes.hear(beat("router"), 100.0)
    processes.hear(beat("encoder"), 104.0)
    assert states(processes, 105.9) == {"encoder/1": "ready", "router/1": "ready"}
    assert states(processes, 106.0) == {"encoder/1": "ready", "router/1": "gone"}
    assert [it.service for it in processes.alive(106.0)] == ["encoder"]
    assert states(processes, 100.1 + DROPPED) == {"encoder/1": "gone"}


def test_one_that_said_goodbye_is_not_gone() -> None:
    processes = Processes()
    processes.hear(beat("router", state="stopped"), 100.0)
    assert states(processes, 100.0 + STOPPED) == {"router/1": "stopped"}
    assert processes.alive(100.0) == []
    assert states(processes, 100.1 + STOPPED) == {}


def test_another_process_of_the_same_number_is_noticed() -> None:
    processes = Processes()
    assert not processes.hear(beat("router", pid=1), 1.0)
    assert not processes.hear(beat("router", pid=1), 2.0)
    assert processes.hear(beat("router", pid=2), 3.0)


def test_in_a_container_another_process_has_the_same_pid() -> None:
    processes = Processes()
    states = ("starting", "starting", "ready", "starting", "starting", "ready")
    heard = [processes.hear(beat("router", state=it), float(at)) for at, it in enumerate(states)]
    assert heard == [False, False, False, True, False, False]


def test_processes_stand_in_order_with_what_they_say() -> None:
    processes = Processes()
    for number in ("10", "9", "1"):
        processes.hear(beat("encoder", number), 1.0)
    counters = {"batches": 3, "queue_ms_le_5": 1, "card:0123456789ab": 9, "rows:law": 2}
    processes.hear(beat("broker", queue=4, counters=counters), 2.5)
    first, *others = processes.snapshot(3.0)
    assert [it.instance for it in others] == ["1", "9", "10"]
    assert (first.service, first.queue, first.rss_bytes, first.age_s) == ("broker", 4, 5, 0.5)
    assert first.counters == {"batches": 3, "rows:law": 2}


def test_a_bounded_number_of_processes_is_remembered() -> None:
    processes = Processes()
    for number in range(MOST + 10):
        processes.hear(beat("stranger", str(number)), float(number) / 1000)
    assert len(processes.snapshot(1.0)) == MOST


class Router:
    """Heartbeats of a router that answers requests."""

    def __init__(self, pid: int = 1) -> None:
        self.pid = pid
        self.counts = {"answered": 0, "failed": 0}
        self.took = Histogram("latency_ms", (10, 100, 1000))

    def answer(self, count: int, milliseconds: float) -> None:
        self.counts["answered"] += count
        for _ in range(count):
            self.took.add(milliseconds)

    def beat(self, **more: Any) -> Any:
        return beat(
            "router", pid=self.pid, counters={**self.counts, **self.took.counters(), **more}
        )


def bars(requests: Requests, now: float) -> list[tuple[int, int]]:
    return [(bar.requests, bar.failed) for bar in requests.snapshot(now).history]


def test_what_was_counted_between_two_heartbeats_is_spread_over_its_time() -> None:
    router, requests = Router(), Requests(started=100.0)
    requests.hear(router.beat(), 103.0)
    router.answer(80, 50.0)
    router.counts["failed"] += 8
    requests.hear(router.beat(), 107.0)
    assert bars(requests, 107.0) == [(44, 4)]
    assert bars(requests, 112.0) == [(44, 4), (44, 4)]

    (first, _) = requests.snapshot(112.0).history
    assert first.time.timestamp() == 100
    assert first.p50_ms == pytest.approx(55.0)
    assert first.p95_ms == pytest.approx(95.5)


def test_what_was_counted_before_the_view_began_is_not_shown() -> None:
    router, requests = Router(), Requests(started=100.0)
    router.answer(500, 5.0)
    requests.hear(router.beat(), 101.0)
    requests.hear(router.beat(), 104.0)
    (bar,) = requests.snapshot(105.0).history
    assert (bar.requests, bar.p50_ms, bar.p95_ms) == (0, None, None)


@pytest.mark.parametrize("pid", [2, 1], ids=["another pid", "the same, in a container"])
def test_a_router_that_starts_anew_begins_at_nothing(pid: int) -> None:
    router, requests = Router(), Requests(started=100.0)
    router.answer(500, 5.0)
    requests.hear(router.beat(), 100.0)
    another = Router(pid)
    another.answer(10, 50.0)
    requests.hear(another.beat(), 105.0)
    (bar,) = requests.snapshot(105.0).history
    assert (bar.requests, bar.failed) == (10, 0)
    assert bar.p50_ms == pytest.approx(55.0)


def test_the_history_is_five_minutes_however_long_it_was_looked() -> None:
    router, requests = Router(), Requests(started=0.0)
    for second in range(0, 1000, 2):
        router.answer(2, 5.0)
        requests.hear(router.beat(), float(second))
    history = requests.snapshot(1000.0).history
    assert len(history) == 60
    assert {bar.requests for bar in history[:-1]} == {5}
    assert [bar.time.timestamp() for bar in history][::59] == [700, 995]


def test_a_router_that_was_silent_for_hours_does_not_cost_hours() -> None:
    router, requests = Router(), Requests(started=0.0)
    requests.hear(router.beat(), 1.0)
    router.answer(6000, 5.0)
    requests.hear(router.beat(), 100_000.0)
    assert len(requests.snapshot(100_000.0).history) == 60


def test_the_last_minute_is_the_routers_own_word() -> None:
    router, requests = Router(), Requests(started=100.0)
    figures = {"minute_requests": 7, "minute_texts": 20, "minute_failed": 2}
    requests.hear(router.beat(**figures, p50_ms=12.5, p95_ms=80.0), 101.0)
    minute = Minute(requests=7, texts=20, failed=2, p50_ms=12.5, p95_ms=80.0)
    assert requests.snapshot(102.0).minute == minute
    nothing = Minute(requests=0, texts=0, failed=0, p50_ms=None, p95_ms=None)
    assert requests.snapshot(107.0).minute == nothing, "a router that is gone says nothing"


def test_where_all_failed_nothing_is_told_of_how_long_it_took() -> None:
    router, requests = Router(), Requests(started=100.0)
    requests.hear(router.beat(minute_requests=3, minute_failed=3, p50_ms=0.0, p95_ms=0.0), 101.0)
    minute = requests.snapshot(101.0).minute
    assert (minute.requests, minute.p50_ms, minute.p95_ms) == (3, None, None)


def test_several_routers_are_told_together() -> None:
    requests = Requests(started=100.0)
    for instance, p50 in (("1", 10.0), ("2", 30.0)):
        counters = {"minute_requests": 5, "minute_texts": 5, "p50_ms": p50, "p95_ms": 2 * p50}
        requests.hear(beat("router", instance, counters=counters), 101.0)
    minute = requests.snapshot(101.0).minute
    assert minute == Minute(requests=10, texts=10, failed=0, p50_ms=30.0, p95_ms=60.0)


def test_a_bounded_number_of_routers_is_remembered() -> None:
    requests = Requests(started=100.0)
    for number in range(40):
        counters = {"minute_requests": 1}
        requests.hear(beat("router", str(number), counters=counters), 101.0 + number / 1000)
    assert requests.snapshot(102.0).minute.requests == ROUTERS
