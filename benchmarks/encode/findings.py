"""From what the rounds measured to the report: figures, ratios, what was wanted."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.encode.rounds import ALL, BULK, Course
from benchmarks.kit.rounds import Comparison, Figure, Report, compare, figure

__all__ = ["OURS", "report_of", "versions"]

OURS = "consonance"
WANTED = {"sentence-transformers": 1.4, "onnxruntime": 1.0}
"""Times the texts/s of the peer, from so many single texts through the bus."""
WANTED_MS = 2.0
"""Beyond the same in process, at p50."""
BUSY = 0.1
"""Share of the cores' time that went to others, from which on that is said."""
PACKAGES = ("consonance", "torch", "transformers", "sentence-transformers", "onnxruntime", "numpy")


def report_of(
    course: Course,
    *,
    command: str,
    machine: dict[str, Any],
    processes: int,
    notes: Sequence[str],
) -> Report:
    """What was found."""
    rates = {
        name: [course.count / value for value in values] for name, values in course.seconds.items()
    }
    what = f"{course.count:,} texts, {course.clients} clients"
    figures = [figure(what, OURS, "texts/s", rates[OURS])]
    figures += [
        figure(f"{course.count:,} texts, {BULK[form]}", OURS, "texts/s", rates[form])
        for form in course.bulk
    ]
    figures += [
        figure(f"{course.count:,} texts, one list", name, "texts/s", rates[name])
        for name in course.peers
    ]
    comparisons = [
        compare(
            what,
            (OURS, rates[OURS]),
            (name, rates[name]),
            relation=">=" if name in WANTED else None,
            wanted=WANTED.get(name),
        )
        for name in course.peers
    ]
    first = next(iter(course.peers))
    comparisons += [
        compare(f"{course.count:,} texts, {BULK[form]}", (OURS, rates[form]), (first, rates[first]))
        for form in course.bulk
    ]
    whole = (OURS, course.cpu[ALL])
    comparisons += [
        compare("CPU time of the same, all processes", whole, (name, course.cpu[name]))
        for name in course.peers
    ]
    figures += _singles(course)
    comparisons += _waits(course)
    figures += _cpu(course)
    said = [
        _sharing(course.clients, processes),
        "the fleet's settings are the defaults, but for the HTTP API, which is off",
        f"least cosine of any vector to {first}'s: {course.least:.7f}",
        *notes,
        *_busy(machine),
    ]
    return Report(
        name="encode",
        command=command,
        machine=machine,
        versions=versions(),
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        notes=tuple(said),
    )


def versions() -> dict[str, str]:
    """Of ours and of whoever is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _singles(course: Course) -> list[Figure]:
    what = f"one text at a time, {course.single}: "
    percentiles: tuple[tuple[str, Mapping[str, list[float]]], ...] = (
        ("p50", course.p50),
        ("p99", course.p99),
    )
    return [
        figure(what + share, name, "ms", values)
        for share, by_name in percentiles
        for name, values in by_name.items()
    ]


def _waits(course: Course) -> list[Comparison]:
    if OURS not in course.p50:
        return []
    first = next(iter(course.peers))
    found = []
    for share, by_name, wanted in (("p50", course.p50, WANTED_MS), ("p99", course.p99, None)):
        for name in course.peers:
            promised = name == first and wanted is not None
            found.append(
                compare(
                    f"one text at a time, {share}",
                    (OURS, by_name[OURS]),
                    (name, by_name[name]),
                    relation="<=" if promised else None,
                    wanted=wanted if promised else None,
                    difference="ms",
                )
            )
    return found


def _cpu(course: Course) -> list[Figure]:
    what = f"CPU for {course.count:,} texts"
    return [
        figure(what, name if name in course.peers else f"{OURS}: {name}", "s", values)
        for name, values in course.cpu.items()
        if max(values) >= 0.01
    ]


def _busy(machine: Mapping[str, Any]) -> list[str]:
    if machine.get("others", 0.0) < BUSY:
        return []
    return [
        "the machine was busy with other work, which slows threads that wait for each other "
        "(sentence-transformers, ONNX Runtime, our engine alone) more than processes of one thread "
        "(the fleet's): idle, the peers stand better"
    ]


def _sharing(clients: int, processes: int) -> str:
    if processes == 1:
        return f"the {clients} clients are tasks of one process and share one connection to the bus"
    return (
        f"the {clients} clients are spread over {processes} processes, with one connection to the "
        "bus each"
    )
