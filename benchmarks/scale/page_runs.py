"""The parts of the page about what was run whole: three hosts, and the loop on two buses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from benchmarks.hosts.run import Course
from benchmarks.hosts.table import HEADS, rows
from benchmarks.kit.show import machine_line, number
from benchmarks.report.page import table
from benchmarks.scale.costs import BROKER, NATS
from benchmarks.scale.table import in_bytes

__all__ = ["hosts_lines", "kept", "learned_lines", "measured"]


def hosts_lines(hosts: dict[str, Any]) -> Iterator[str]:
    """What `benchmarks.hosts` found."""
    courses = msgspec.convert(hosts["courses"], list[Course])
    yield "## Three hosts\n"
    yield (
        "```console\n$ python -m benchmarks.hosts --bus both --out "
        "benchmarks/results/hosts.json\n```\n\n"
        "Three network namespaces, each a host: the first has everything and an encoder, the "
        "others an encoder each; clients ask from a fourth. "
        "All of them share the cores of this machine: with two, which one encoder, bus, router "
        "and clients use up nearly alone, three encoders "
        "cannot be three times as fast, and the figures show that work is spread and nothing is "
        "lost, not how fast three machines would be.\n"
    )
    for course in courses:
        plan = course.plan
        name = "our broker on TCP, with keys" if plan.transport == "tcp" else "NATS"
        one, three = course.parts[:2]
        per_core = (three.rate / three.cores) / (one.rate / one.cores)
        yield f"**On {name}**, {plan.clients} clients, a deadline of {plan.deadline:g} s\n"
        yield from table(HEADS, "l" + "r" * (len(HEADS) - 1), rows(course))
        yield ""
        lost = sum(part.requests - part.answered for part in course.parts)
        longest = max(part.longest_s for part in course.parts)
        back = (
            "did not compute again"
            if course.back_s is None
            else f"computed again {course.back_s:.1f} s after its cable was mended"
        )
        yield (
            f"For each core that was left to them three hosts did {per_core:.2f} times as much as "
            "one. Of "
            f"{sum(part.requests for part in course.parts):,} requests {lost or 'none'} stayed "
            f"unanswered; the longest took {longest:.1f} s: what lay at the host that fell "
            "silent is given to another after 6 s. "
            f"The host that was cut off {back}; the one that was gone was ready "
            f"{course.restarted_s:.1f} s after its start."
        )
        if three.cpu_us:
            used = ", ".join(f"{who} {number(value)} µs" for who, value in three.cpu_us.items())
            yield f"CPU time a request with three hosts: {used}."
        yield ""
    yield measured(hosts["machine"], hosts["load"])


def learned_lines(learned: dict[str, Any]) -> Iterator[str]:
    """What `benchmarks.learning` found on two buses."""
    yield "## The loop on NATS\n"
    alone = " --no-body" if learned["settings"]["factory"].get("body_schedule") == "off" else ""
    yield (
        "```console\n$ python -m benchmarks.learning --data FOLDER --feedback 256 "
        f"--seeds {learned['sizes'][0]['seeds']}{alone} --bus both\n```\n\n"
        "[The whole loop](evidence.md) on BANKING77, 256 pieces of feedback, on our broker and "
        "on a NATS server with JetStream; means over "
        "the same seeds.\n"
    )
    sizes = learned["sizes"]
    names = [BROKER if it["bus"] == "zeromq" else NATS for it in sizes]
    measures = (("recall", "recall@1"), ("mrr", "MRR@10"))
    routes = (("base", "base model"), ("final", "the skill, named"), ("auto", "as routed"))
    cells = [
        (f"{title}, {what}", *(_mean(it[route], measure) for it in sizes))
        for measure, title in measures
        for route, what in routes
    ]
    cells.append(("share routed", *(f"{it['routed']['mean']:.3f}" for it in sizes)))
    cells.append(("s to the head's verdict", *(f"{it['head_s']['mean']:.0f}" for it in sizes)))
    cells.append(("files of durable events, a piece", *(in_bytes(kept(it)) for it in sizes)))
    yield from table(("", *names), "l" + "r" * len(names), cells)
    yield ""
    yield measured(learned)


def measured(machine: dict[str, Any], load: float | None = None) -> str:
    """When and where."""
    began = "" if load is None else f"; load {load:.1f} when it began"
    return f"Measured on {machine.get('date', '?')}: {machine_line(machine)}{began}.\n"


def kept(found: dict[str, Any]) -> float:
    """Bytes of the journal's files for a piece of feedback."""
    return float(found["journal_bytes"]["mean"] / found["feedback"])


def _mean(found: dict[str, Any] | None, measure: str) -> str:
    return "" if found is None else f"{found[measure]['mean']:.3f}"
