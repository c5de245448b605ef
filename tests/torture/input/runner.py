"""Runs the targets: their cases, Hypothesis, the fuzzer in processes of its own, real sockets."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from tests.torture.input import http, sockets
from tests.torture.input.packages import PACKAGES
from tests.torture.input.target import Slow, Target, silence, within
from tests.torture.kit import Outcome, Say

__all__ = ["TARGETS", "Fuzzed", "examples", "fuzzed", "replay", "run"]

TARGETS: Final[tuple[Target, ...]] = tuple(
    importlib.import_module(f"tests.torture.input.{name}").TARGET for name in PACKAGES
)

LONGEST: Final = 10
"""Seconds that one input may take."""
MOST: Final = 3
"""Finds of one target, after which its fuzzer is not started again."""
SHARES: Final = {"Hypothesis": 0.15, "fuzzer": 0.68, "sockets": 0.05, "http": 0.12}

_STARTING: Final = 20.0
"""Seconds that a fuzzer may need beside those of its budget."""


@dataclass(frozen=True)
class Fuzzed:
    """What one run of the fuzzer came to."""

    executions: int = 0
    corpus: int = 0
    """Inputs that reached something new."""
    features: int = 0
    broken: str = ""


def replay(target: Target, data: bytes) -> str:
    """What the input breaks, in a sentence; empty where the promise holds."""
    try:
        with within(LONGEST):
            target.check(data)
    except (Exception, Slow) as error:
        return f"{target.name}: {_words(error)}; to see it again: {_again(target, data)}"
    return ""


def _words(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    name = Path(place.filename).name
    return f"{type(error).__name__} at {name}:{place.lineno}: {str(error)[:300]}"


def _again(target: Target, data: bytes) -> str:
    packed = base64.b64encode(zlib.compress(data, 9)).decode()
    return f"python -m tests.torture.input.replay {target.name} {packed}"


def examples(target: Target, count: int, seed: int | None) -> tuple[int, str]:
    """Let Hypothesis change the target's seeds `count` times; how often, and what it found.

    Without a seed always the same.
    """
    tried = 0
    shortest: list[bytes] = []
    seeds = target.seeds()

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(
        start=st.sampled_from(seeds),
        random=st.randoms(use_true_random=False),
        times=st.integers(1, 4),
    )
    def change(start: bytes, random: Random, times: int) -> None:
        nonlocal tried
        tried += 1
        for _ in range(times):
            start = target.mutate(start, random)
        if words := replay(target, start):
            shortest[:] = [start]
            raise AssertionError(words.partition("; to see")[0].encode())

    try:
        (change if seed is None else hypothesis.seed(seed)(change))()
    except hypothesis.errors.Flaky:  # a mutation that looks at an address: nothing of ours
        return tried, ""
    except AssertionError:
        return tried, replay(target, shortest[0]) or f"{target.name}: once, and not again"
    return tried, ""


def fuzzed(target: Target, seconds: float, seed: int, runs: int = -1) -> Fuzzed:
    """One run of the fuzzer in a process of its own, to its end or to its first find."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        command = [sys.executable, "-m", "tests.torture.input.fuzz", target.name]
        command += [folder, str(max(1, round(seconds))), str(seed), str(runs)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=seconds + _STARTING + 2 * LONGEST,
                check=False,
                env={**os.environ, "TORTURE_FOLDER": folder},
            )
        except subprocess.TimeoutExpired:
            return Fuzzed(broken=f"{target.name}: the fuzzer came to no end (seed {seed})")
        told = done.stderr.decode(errors="replace")
        last = re.findall(r"ft: (\d+) corp: (\d+)/", told)[-1:] or [("0", "0")]
        runs = re.findall(r"number_of_executed_units: (\d+)|Done (\d+) runs", told)
        count = max((int(a or b) for a, b in runs), default=0)
        broken = ""
        if done.returncode:
            found = [p for p in Path(folder).iterdir() if p.is_file()]
            again = _again(target, found[0].read_bytes()) if found else f"seed {seed}"
            kind = found[0].name.partition("-")[0] if found else f"exit {done.returncode}"
            words = re.findall(r"^(?:[\w.]+: .*|ERROR: libFuzzer.*)$", told, re.MULTILINE)[-1:]
            broken = f"{target.name}: {kind}: {' '.join(words)[:300]}; to see it again: {again}"
        return Fuzzed(count, int(last[0][1]), int(last[0][0]), broken)


class _Run:
    """The long form: what was done so far."""

    def __init__(self, seed: int, say: Say) -> None:
        self.seed = seed
        self.say = say
        self.broken: list[str] = []
        self.figures: dict[str, int | float | str] = {"inputs that were executed": 0}
        self.lines: dict[str, list[str]] = {}

    def count(self, target: str, words: str, number: int) -> None:
        self.lines.setdefault(target, []).append(f"{number:,} {words}")
        total = self.figures["inputs that were executed"]
        self.figures["inputs that were executed"] = int(total) + number

    def cases(self) -> None:
        for target in TARGETS:
            found = [case.read_bytes() for case in target.cases()]
            self.broken += filter(None, (replay(target, data) for data in found))
            self.count(target.name, "cases", len(found))

    def hypothesis(self, seconds: float) -> None:
        for target in TARGETS:
            end = time.monotonic() + seconds * target.weight / sum(t.weight for t in TARGETS)
            tried, seed = 0, self.seed
            while time.monotonic() < end:
                count, words = examples(target, 200, seed)
                tried, seed = tried + count, seed + 1
                if words:
                    self.broken.append(words)
                    break
            self.say(f"{target.name}: Hypothesis, {tried:,} examples")
            self.count(target.name, "of Hypothesis", tried)

    def fuzz(self, seconds: float) -> None:
        for target in TARGETS:
            end = time.monotonic() + seconds * target.weight / sum(t.weight for t in TARGETS)
            executions = corpus = features = finds = 0
            while (left := end - time.monotonic()) > 5 and finds < MOST:
                found = fuzzed(target, left - 3, self.seed + finds)
                executions += found.executions
                corpus, features = max(corpus, found.corpus), max(features, found.features)
                if not found.broken:
                    break
                finds += 1
                self.broken.append(found.broken)
            self.say(f"{target.name}: fuzzer, {executions:,} executions, {corpus} kept")
            self.count(target.name, "of the fuzzer", executions)
            self.lines[target.name].append(f"corpus {corpus:,}, features {features:,}")

    def sockets(self, seconds: float) -> None:
        try:
            count = sockets.exchanged(10**9, Random(self.seed), time.monotonic() + seconds)
        except Exception as error:
            self.broken.append(f"sockets, seed {self.seed}: {_words(error)}")
            return
        self.say(f"sockets: {count:,} messages")
        self.count("sockets", "messages to a real broker", count)

    def http(self, seconds: float) -> None:
        from tests.torture.input.documented import asked  # seconds, which only a run need take

        end = time.monotonic() + seconds
        try:
            with http.served() as url:
                knocks = http.knocked(url, 10**9, Random(self.seed), time.monotonic() + seconds / 5)
                calls, seed = 0, self.seed
                while time.monotonic() < end:
                    count, found = asked(url, 50, seed, end)
                    calls, seed = calls + count, seed + 1
                    if found:
                        self.broken += found
                        break
        except Exception as error:
            self.broken.append(f"http, seed {self.seed}: {_words(error)}")
            return
        self.say(f"http: {calls:,} calls, {knocks:,} raw requests")
        self.count("http", "calls by schemathesis", calls)
        self.count("http", "raw requests", knocks)


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """All targets, each with its share of the time."""
    started = time.monotonic()
    work = _Run(seed, say)
    seconds = {what: 60 * minutes * share for what, share in SHARES.items()}
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        say("atheris is not here: Hypothesis alone")
        seconds["Hypothesis"] += seconds.pop("fuzzer")
    with silence():
        work.cases()
        work.hypothesis(seconds["Hypothesis"])
        if guided:
            work.fuzz(seconds["fuzzer"])
        work.sockets(seconds["sockets"])
        work.http(seconds["http"])
    work.figures["guided by coverage"] = "atheris" if guided else "no: atheris is not here"
    work.figures |= {name: ", ".join(lines) for name, lines in work.lines.items()}
    work.figures["broken promises"] = len(work.broken)
    return Outcome("input", seed, time.monotonic() - started, work.figures, tuple(work.broken))
