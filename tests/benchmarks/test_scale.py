"""How cost grows: virtual time is true to what is known of queues, and the page to its results."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from benchmarks.report.results import FOLDER
from benchmarks.scale import carriers, page
from benchmarks.scale.__main__ import main, options_of
from benchmarks.scale.costs import BROKER, Carrier, Costs, Encoding, Index
from benchmarks.scale.costs import Path as Walk
from benchmarks.scale.forecast import Check, Scale, forecasts
from benchmarks.scale.machines import Clock, Machine, Thread
from benchmarks.scale.plans import Plan
from benchmarks.scale.simulation import HOP, simulate
from benchmarks.scale.validation import Seen

DRAWN = random.Random(1)


def walk(encoders: int, router: float, texts: int = 1) -> Walk:
    return Walk(
        encoders=encoders,
        texts=texts,
        requests=1000,
        waiting=1000,
        rate=2000.0,
        broker_us=60.0,
        router_us=router,
        answers_us=100.0,
        clients_us=300.0,
    )


CARRIER = Carrier(
    name=BROKER,
    light=walk(1, 250.0),
    paths=(walk(1, 150.0), walk(10, 160.0), walk(100, 260.0), walk(100, 400.0, 16)),
    beat_broker_us=20.0,
    beat_router_us=25.0,
    hear_us=30.0,
    fan_us=7.0,
    live=60_000.0,
    live_broker_us=13.0,
    durable=18_000.0,
    durable_how="fsync",
    stored=700.0,
)
COSTS = Costs(
    carriers=(CARRIER,),
    encoding=Encoding(
        batches=tuple((tokens, 0.002 + tokens * 1e-4) for tokens in range(10, 900, 10)),
        tokens=tuple(DRAWN.randint(7, 66) for _ in range(500)),
        together=0.9,
        request_us=300.0,
    ),
    index=(Index(skills=100, prototypes=500, bytes=10**6, own_us=90.0, other_us=50.0),),
)


def plan(encoders: int = 1, **given: float) -> Plan:
    fields = {"clients": 16 * encoders, "requests": 1200, "seed": 1} | given
    return msgspec.convert({"carrier": BROKER, "encoders": encoders, **fields}, Plan)


def ended(cores: float, works: list[float], together: float = 1.0) -> list[float]:
    """When threads of a machine are done that begin at once."""
    clock = Clock()
    machine = Machine(clock, cores, together)
    found = [0.0] * len(works)
    for place, seconds in enumerate(works):

        def done(place: int = place) -> None:
            found[place] = clock.now

        Thread(machine).give(seconds, done)
    clock.run(lambda: False)
    return found


@pytest.mark.parametrize(
    ("cores", "works", "together", "ends"),
    [
        (1, [1.0], 1.0, [1.0]),
        (1, [1.0, 1.0], 1.0, [2.0, 2.0]),
        (1, [1.0, 3.0], 1.0, [2.0, 4.0]),
        (2, [1.0, 3.0], 1.0, [1.0, 3.0]),
        (2, [1.0, 3.0], 0.5, [2.0, 4.0]),
        (2, [1.0, 1.0, 1.0], 1.0, [1.5, 1.5, 1.5]),
    ],
    ids=["alone", "shared", "unequal", "a core each", "slower together", "three on two"],
)
def test_cores_are_shared(
    cores: float, works: list[float], together: float, ends: list[float]
) -> None:
    assert ended(cores, works, together) == pytest.approx(ends)


def test_a_thread_does_one_thing_after_another_and_knows_how_long_it_was_busy() -> None:
    clock = Clock()
    thread = Thread(Machine(clock, 4))
    done: list[float] = []
    for seconds in (1.0, 2.0):
        thread.give(seconds, lambda: done.append(clock.now))
    clock.after(10.0, lambda: thread.give(0.5, lambda: done.append(clock.now)))
    clock.run(lambda: False)
    assert done == pytest.approx([1.0, 3.0, 10.5])
    assert thread.busy == pytest.approx(3.5)


def test_the_line_of_an_encoder_is_found_again() -> None:
    assert COSTS.encoding.line() == pytest.approx((0.002, 1e-4))


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    once, again = simulate(plan(2), COSTS), simulate(plan(2), COSTS)
    assert once == again
    assert simulate(plan(2, seed=2), COSTS).rate != once.rate


def test_who_has_little_to_do_is_busy_for_as_long_as_it_works() -> None:
    """By Little's law: a request a second that takes so many seconds keeps one busy for as many."""
    quiet = simulate(plan(4, clients=0, rate=50.0), COSTS)
    beats = 4 / 2.0 * CARRIER.beat_broker_us
    assert quiet.rate == pytest.approx(50.0, rel=0.1)
    busy = (quiet.rate * CARRIER.broker_us(4) + beats) / 1e6
    assert quiet.broker == pytest.approx(busy, rel=0.05)


def test_one_client_waits_for_its_own_request_alone() -> None:
    alone = simulate(plan(1, clients=1, requests=200), COSTS)
    start, each = COSTS.encoding.line()
    tokens = sum(COSTS.encoding.tokens) / len(COSTS.encoding.tokens)
    # Three events before the answer is there, two steps each, and all that is computed.
    least = 6 * HOP + start + each * tokens + 300e-6 + 0.7 * 150e-6
    assert alone.p50_ms == pytest.approx(1e3 * least, rel=0.1)


def test_encoders_add_up_until_the_router_has_no_time_left() -> None:
    one, eight = simulate(plan(1), COSTS), simulate(plan(8), COSTS)
    assert one.first == eight.first == "encoders"
    assert eight.rate == pytest.approx(8 * one.rate, rel=0.1)
    many = plan(48, requests=3000)
    full = simulate(many, COSTS)
    assert full.first == "router"
    assert full.rate == pytest.approx(1e6 / CARRIER.router_us(48), rel=0.05)
    shared = simulate(msgspec.structs.replace(many, routers=4), COSTS)
    assert shared.rate > 1.5 * full.rate


def test_lists_of_texts_take_fewer_requests() -> None:
    single, lists = plan(4), plan(4, texts=16, clients=8, requests=300)
    assert simulate(lists, COSTS).router < simulate(single, COSTS).router / 3


def test_a_machine_that_has_them_all_is_slower_than_one_for_each() -> None:
    apart, together = simulate(plan(2), COSTS), simulate(plan(2, cores=2), COSTS)
    assert together.rate < 0.9 * apart.rate


def test_requests_go_through_a_real_bus_and_router() -> None:
    found = carriers.walk(BROKER, encoders=3, requests=64)
    assert (found.encoders, found.requests) == (3, 64)
    assert (
        min(found.rate, found.clients_us) > 0
    )  # the others' are counted in hundredths of a second


def toy(monkeypatch: pytest.MonkeyPatch) -> Scale:
    from benchmarks.scale import forecast

    monkeypatch.setattr(forecast, "REQUESTS", {1: 60, 10: 60})
    for name, value in (("MOST", 250), ("LISTS", 250), ("EACH", 1)):
        monkeypatch.setattr(forecast, name, value)
    seen = Seen(encoders=1, cores=2.0, texts=200.0, p50_ms=10.0, request_us=300.0)
    return Scale(
        name="scale",
        command="python -m benchmarks.scale",
        machine={"cores": 2, "date": "2026-11-22"},
        load=0.5,
        versions={},
        costs=COSTS,
        checks=(Check(seen=seen, texts=220.0, p50_ms=9.0),),
        outcomes=tuple(forecasts(COSTS, 1, int)),
    )


def test_the_same_results_make_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scale.json").write_bytes(msgspec.json.encode(toy(monkeypatch)))
    file, pictures = tmp_path / "scale.md", tmp_path / "pictures"
    made = []
    for _ in range(2):
        assert page.write(tmp_path, file, pictures)
        made.append((file.read_text("utf-8"), (pictures / "scale.svg").read_text("utf-8")))
    assert made[0] == made[1]
    assert "| 1 encoder, 64 clients, 2.0 cores, texts/s | 220 | 200 | +10% |" in made[0][0]
    assert "prefers-color-scheme: dark" in made[0][1]


@pytest.mark.parametrize(
    ("holds", "says"),
    [
        (None, "cannot use {file}: No such file or directory"),
        (b"{}", "--costs {file} is no result of this benchmark: Object missing required field"),
        (b"costs", "--costs {file} is no result of this benchmark: JSON is malformed"),
        (b'{"name": "\xff', "--costs {file} is no result of this benchmark: "),
    ],
    ids=["none", "another", "text", "bytes"],
)
def test_costs_that_are_none_are_told_in_a_sentence(
    holds: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.json"
    if holds is not None:
        file.write_bytes(holds)
    assert main(["--costs", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks.scale: {says.format(file=file)}")


def test_without_results_there_is_no_page(tmp_path: Path) -> None:
    assert not page.write(tmp_path, tmp_path / "scale.md", tmp_path)
    assert not (tmp_path / "scale.md").exists()


def test_the_page_of_the_site_is_made_of_the_results(tmp_path: Path) -> None:
    site = Path(__file__).parents[2] / "docs"
    pictures = tmp_path / "pictures" / "benchmarks"
    assert page.write(FOLDER, tmp_path / "scale.md", pictures)
    assert (tmp_path / "scale.md").read_text("utf-8") == (site / "scale.md").read_text("utf-8")


def test_a_run_without_requests_is_refused() -> None:
    with pytest.raises(SystemExit):
        options_of(["--requests", "0"])
