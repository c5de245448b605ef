"""What an overloaded fleet promises, and whether it kept it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Final

from tests.torture.overload.crowd import GRACE, Asked
from tests.torture.overload.scenario import GREEDY, Found

__all__ = ["ROOM", "broken", "figures"]

ROOM: Final = {"broker": 640 << 20, "router": 256 << 20, "encoder": 384 << 20}
"""Bytes that a process may grow by; its name's first word, others as `OTHERS`."""

OTHERS: Final = 128 << 20

FAIR: Final = 3.0
"""No client's median is more than so many times the median client's."""

FEW: Final = 3
"""Answers of a client that make a median."""

NORMAL: Final = 1.5
RECOVERY: Final = 5.0

SHARE: Final = 10.0
"""The greedy client gets at most so many times what the median client gets, of a hundred."""


def medians(asked: list[Asked]) -> dict[int, float]:
    """Seconds of the answered queries of each client at the median."""
    times: dict[int, list[float]] = {}
    for it in asked:
        if it.code == "completed" and it.shape.texts == 1:
            times.setdefault(it.client, []).append(it.seconds)
    return {client: median(took) for client, took in times.items() if len(took) >= FEW}


def shares(asked: list[Asked], clients: int) -> list[int]:
    """Answered queries of each client."""
    counts = Counter(it.client for it in asked if it.code == "completed" and it.shape.texts == 1)
    return [counts[client] for client in range(clients)]


def figures(found: Found, grown: Mapping[str, int], clients: int) -> dict[str, int | float | str]:
    """The numbers of the run."""
    codes = Counter(it.code or "nothing" for it in found.asked)
    by = medians(found.asked)
    typical = median(by.values()) if by else 0.0
    got = shares(found.asked, clients)
    normal = found.normal_after(NORMAL)
    return {
        "clients": clients,
        "sustained, requests/s": round(found.sustained, 1),
        "offered, requests/s": round(found.offered, 1),
        "requests": len(found.asked),
        **{f"ended in {code}": count for code, count in sorted(codes.items())},
        "median latency of the median client, s": round(typical, 3),
        "worst client's median, times that": round(max(by.values()) / typical, 2) if by else 0,
        "answers of the median client": int(median(got)),
        "answers of the least served client": min(got),
        "answers of the greedy client, 100 times the requests": got[GREEDY],
        "lone request before, ms": round(1e3 * found.before, 2),
        "lone request from 5 s after, ms": round(1e3 * found.after, 2),
        "normal again after, s": round(normal, 2) if normal is not None else "never",
        "late words of deadlines": sum(_late(it) for it in found.asked),
        "grown at most, MiB": ", ".join(
            f"{name} {size >> 20}" for name, size in grown.items() if size >= 1 << 20
        ),
        "crowd behind at most, s": round(found.lag, 3),
        "sends dropped": found.dropped,
    }


def broken(
    found: Found, grown: Mapping[str, int], pids: Mapping[str, set[int]], clients: int
) -> list[str]:
    """A sentence for each promise that did not hold."""
    wrong = []
    for name, size in grown.items():
        room = ROOM.get(name.split()[0], OTHERS)
        if size > room:
            wrong.append(f"{name} grew by {size >> 20} MiB, more than {room >> 20}")
    for name, lives in pids.items():
        if len(lives) > 1 and name != "child":
            wrong.append(f"{name} was started {len(lives)} times")
    mute = [it for it in found.asked if it.code == "overloaded" and not it.retry_after_ms]
    if mute:
        wrong.append(f"{len(mute)} refusals as overloaded say no time to come again")
    if found.unanswered:
        shapes = Counter(it.shape.name for it in found.asked if not it.code)
        wrong.append(f"{found.unanswered} requests heard nothing by their deadline: {shapes}")
    late = sum(_late(it) for it in found.asked)
    if late:
        wrong.append(f"{late} requests were answered later than {GRACE:g} s after their deadline")
    if not any(it.code == "overloaded" for it in found.asked):
        wrong.append("nobody was refused as overloaded: it was no overload")
    by = medians(found.asked)
    if len(by) < clients // 2:
        wrong.append(f"only {len(by)} of {clients} clients got {FEW} answers or more")
    if by:
        typical = median(by.values())
        client, worst = max(by.items(), key=lambda it: it[1])
        if worst > FAIR * typical:
            wrong.append(
                f"client {client} waited {worst:.2f} s at the median, the median client "
                f"{typical:.2f}"
            )
    got = shares(found.asked, clients)
    if got[GREEDY] > SHARE * max(median(got), 1):
        wrong.append(
            f"the greedy client got {got[GREEDY]} answers, the median client {median(got):g}"
        )
    normal = found.normal_after(NORMAL)
    if normal is None or normal > RECOVERY:
        wrong.append(
            f"a lone request took more than {NORMAL:g} times {1e3 * found.before:.1f} ms for "
            f"longer than {RECOVERY:g} s after the load's end: {1e3 * found.after:.1f} ms later on"
        )
    return wrong


def _late(it: Asked) -> bool:
    return it.done is not None and it.done > it.until + GRACE
