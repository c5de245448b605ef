"""What the fleet's torture calls a leak, growth or a thing left behind is one, and no other is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.torture.fleet import remains
from tests.torture.fleet.leaks import ARENAS, COLLECTOR, POOL, READERS, grown, leaked
from tests.torture.fleet.memory import Holding, Sample, holding, sample
from tests.torture.fleet.trend import sen

MB = 1e6


def series(per_minute: float, noise: float, seed: int) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [
        Sample(3.0 * n, int(100 * MB + per_minute * n / 20 + random.normal(0, noise)), 0)
        for n in range(50)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_flat_and_growth_is_not(seed: int) -> None:
    step = [replace(it, own=it.own + int(5 * MB) * (it.at > 60)) for it in series(0, 1000, seed)]
    lives = {("flat", 1): series(0, 0.3 * MB, seed), ("grows", 2): series(4 * MB, 0.2 * MB, seed)}
    lives["step", 3] = step
    figures, broken = grown(lives, until=1000)
    assert len(broken) == 1
    assert broken[0].startswith("the memory of grows (process 2) grows: 10")
    assert set(figures) == {"memory of flat", "memory of grows", "memory of step"}


def test_the_slope_is_that_of_a_line_whatever_a_few_samples_say() -> None:
    times = [float(n) for n in range(40)]
    values = [5.0 + 3 * at for at in times]
    values[7] = 1e9
    found = sen(times, values)
    assert found.per_second == pytest.approx(3)
    assert found.low <= 3 <= found.high
    assert not replace(found, level=0.0, per_second=1e6).is_flat


HELD = Holding(
    Counter({"python": 4, "ZMQbg/Reaper": 1}),
    Counter({"socket": 3, "journal.sqlite": 1}),
    100,
    Counter({"a.lora.arrow": 1}),
)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        pytest.param(HELD, "", id="the same"),
        pytest.param(replace(HELD, files=Counter({"socket": 2})), "", id="fewer"),
        pytest.param(
            replace(HELD, files=HELD.files + Counter({"pipe": 2})), "2 × pipe", id="files"
        ),
        pytest.param(
            replace(HELD, files=HELD.files + Counter({"a.sqlite": READERS})), "", id="readers"
        ),
        pytest.param(
            replace(HELD, files=HELD.files + Counter({"a.sqlite": READERS + 1})),
            "1 × a.sqlite",
            id="readers too many",
        ),
        pytest.param(replace(HELD, threads=Counter({"python": 5 + POOL})), "", id="a full pool"),
        pytest.param(replace(HELD, threads=Counter({"python": 6 + POOL})), "threads", id="threads"),
        pytest.param(
            replace(
                HELD,
                files=HELD.files + COLLECTOR,
                threads=Counter({"python": 5, "ZMQbg/Reaper": 2}),
            ),
            "",
            id="what collects for ZeroMQ",
        ),
        pytest.param(
            replace(
                HELD,
                files=HELD.files + COLLECTOR + COLLECTOR,
                threads=Counter({"python": 5, "ZMQbg/Reaper": 3}),
            ),
            "18 files open, 4 before",
            id="two contexts too many",
        ),
        pytest.param(replace(HELD, mappings=100 + ARENAS), "", id="arenas"),
        pytest.param(replace(HELD, mappings=130 + ARENAS), "mappings", id="mappings"),
        pytest.param(
            replace(HELD, cards=Counter({"a.lora.arrow (deleted)": 1})), "deleted", id="a card"
        ),
    ],
)
def test_what_is_held_besides_is_found(now: Holding, found: str) -> None:
    sentences = leaked({"router": HELD, "api": HELD}, {"router": now})
    assert len(sentences) == bool(found)
    assert all(found in sentence for sentence in sentences)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_looked_at_and_found_alive(tmp_path: Path) -> None:
    card = tmp_path / "x.lora.arrow"
    card.write_bytes(bytes(4096))
    code = (
        "import mmap,sys,threading; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0);"
        "threading.Thread(target=sys.stdin.read).start(); print(flush=True)"
    )
    command = [sys.executable, "-c", code, str(card)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        held, memory = holding(child.pid), sample(child.pid)
        began = psutil.Process(child.pid).create_time()
        assert remains.alive({child.pid: began}, 0.0)[0].startswith(str(child.pid))
        assert not remains.alive({child.pid: began - 1}), "another one of the same number"
        child.communicate()
    assert not remains.alive({child.pid: began})
    assert (held.running, held.files["x.lora.arrow"], held.cards) == (2, 2, {"x.lora.arrow": 1})
    assert held.files["pipe"] >= 2
    assert 0 < memory.own <= memory.resident


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    state, temporary = tmp_path / "state", tmp_path / "tmp"
    for name in ("cards/a.lora.arrow", "journal.sqlite", "fleet.lock", "logs/router-1.log"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).touch()
    temporary.mkdir()
    assert not remains.stale(state, temporary, {"/dev/shm/no-such-file"})  # noqa: S108
    left = ["cards/.a.lora.arrow.1.tmp", "journal.sqlite-wal", "x.sock"]
    for name in left:
        (state / name).touch()
    (temporary / "half").touch()
    assert remains.stale(state, temporary, {str(state / "x.sock")}) == sorted(
        [*left, "$TMPDIR/half", str(state / "x.sock")]
    )
    assert not remains.tracebacks(state / "logs")
    (state / "logs" / "router-1.log").write_text(
        '{"exception": "Traceback (most recent call last)"'
    )
    assert remains.tracebacks(state / "logs")[0].startswith("router-1.log: ")
