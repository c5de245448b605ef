"""The rounds: the same texts for everybody, one after another, and whether all say the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.encode.contestant import Contestant, Outcome, cpu_of, spent
from benchmarks.encode.texts import Texts
from benchmarks.kit.measure import percentile
from benchmarks.kit.rounds import interleaved

__all__ = ["ALL", "BULK", "Course", "WrongVectors", "least_cosine", "marked"]

Floats = npt.NDArray[np.float32]

BULK = {"list": "one list, in requests of 64", "blocks": "8 requests at once"}
"""Other forms in which a fleet can be given the same texts."""

ALL = "all of it"
"""The fleet's processes and the clients together."""

SETTLE = 0.3
"""Seconds between two: the threads of some libraries spin on for a while."""


class WrongVectors(Exception):
    """A contestant did not compute what the others did: there is nothing to compare."""


def least_cosine(vectors: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """Of rows (n, dim) with rows (n, dim) of the same texts."""
    mine, theirs = np.asarray(vectors, np.float64), np.asarray(others, np.float64)
    length = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((mine * theirs).sum(axis=1) / np.maximum(length, 1e-12)).min())


def marked(texts: Sequence[str], times: int) -> list[str]:
    """The same texts to a tokenizer, others to a cache: with blanks behind them."""
    return [text + " " * times for text in texts]


@dataclass
class Course:
    """One run: who takes part, and what was measured, in the order of the rounds."""

    fleet: Contestant
    process: int
    """Of the fleet."""
    peers: Mapping[str, Contestant]
    """The first of them is the one to which all vectors are held."""
    texts: Texts
    count: int
    clients: int
    single: int
    """Texts that are sent one after another; 0: none."""
    bulk: Sequence[str] = ()
    """Of `BULK`."""
    cosine: float = 0.9999
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of the whole list, by who, or by form for the fleet's other forms."""
    p50: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds, by who."""
    p99: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """CPU seconds for the list: of each peer, and of the fleet by service and client."""
    least: float = 1.0
    """The least cosine of any vector to the first peer's."""

    @property
    def steps(self) -> int:
        """Of one round, for a progress bar."""
        return 1 + len(self.peers) + len(self.bulk)

    def needs(self, rounds: int) -> int:
        """Texts that so many rounds take."""
        return rounds * (self.count + self.single)

    def run(self, rounds: int, tell: Callable[[], object] = int) -> None:
        """All rounds; raises `WrongVectors`, `NotEnoughTexts`, `BenchError`."""
        if self.needs(rounds) > len(self.texts):
            self.texts.draw(self.needs(rounds))
        lists: list[tuple[list[str], list[str]]] = []
        found: list[dict[str, Floats]] = []

        def turn(name: str, measure: Callable[[list[str], list[str]], Floats]) -> float:
            number = len(self.seconds.setdefault(name, []))
            if number == len(lists):
                lists.append((self.texts.draw(self.count), self.texts.draw(self.single)))
                found.append({})
            time.sleep(SETTLE)
            start = time.monotonic()
            found[number][name] = measure(*lists[number])
            if len(found[number]) == self.steps:
                self._check(found[number])
                found[number].clear()
            return time.monotonic() - start

        contestants = {"consonance": lambda: turn("consonance", self._through_the_fleet)}
        for name, peer in self.peers.items():
            contestants[name] = lambda n=name, p=peer: turn(  # type: ignore[misc]
                n, lambda texts, single: self._in_one_process(n, p, texts, single)
            )
        for place, form in enumerate(self.bulk, 1):
            contestants[form] = lambda f=form, p=place: turn(  # type: ignore[misc]
                f, lambda texts, _: self._in_bulk(f, marked(texts, p))
            )
        interleaved(contestants, rounds, tell=tell)

    def _through_the_fleet(self, texts: list[str], single: list[str]) -> Floats:
        before = cpu_of(self.process)
        outcome = self.fleet.encode(texts, "clients", self.clients)
        used = spent(before, cpu_of(self.process))
        for service, seconds in sorted(used.items()):
            self.cpu.setdefault(service, []).append(seconds)
        self.cpu.setdefault("clients", []).append(outcome.cpu)
        self.cpu.setdefault(ALL, []).append(sum(used.values()) + outcome.cpu)
        self.seconds["consonance"].append(outcome.seconds)
        return self._with_singles("consonance", self.fleet, outcome, single)

    def _in_one_process(
        self, name: str, peer: Contestant, texts: list[str], single: list[str]
    ) -> Floats:
        outcome = peer.encode(texts)
        self.seconds[name].append(outcome.seconds)
        self.cpu.setdefault(name, []).append(outcome.cpu)
        return self._with_singles(name, peer, outcome, single)

    def _in_bulk(self, form: str, texts: list[str]) -> Floats:
        if form == "blocks":
            outcome = self.fleet.encode(texts, "blocks", -(-len(texts) // 8))
        else:
            outcome = self.fleet.encode(texts, "list")
        self.seconds[form].append(outcome.seconds)
        return outcome.vectors

    def _with_singles(
        self, name: str, who: Contestant, outcome: Outcome, single: list[str]
    ) -> Floats:
        if not single:
            return outcome.vectors
        alone = who.encode(single, "single")
        self.p50.setdefault(name, []).append(1e3 * percentile(alone.each, 0.5))
        self.p99.setdefault(name, []).append(1e3 * percentile(alone.each, 0.99))
        return np.concatenate([outcome.vectors, alone.vectors])

    def _check(self, found: Mapping[str, Floats]) -> None:
        reference = found[next(iter(self.peers))]
        for name, vectors in found.items():
            cosine = least_cosine(vectors, reference[: len(vectors)])
            self.least = min(self.least, cosine)
            if not cosine > self.cosine:
                raise WrongVectors(
                    f"a vector of {name} has a cosine of {cosine:.6f} with "
                    f"{next(iter(self.peers))}'s of the same text, wanted: above {self.cosine}"
                )
