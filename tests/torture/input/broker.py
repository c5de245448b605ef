"""The broker's frames: whatever comes in over ingress, as a request, as a subscription."""

from __future__ import annotations

from random import Random

from tests.torture.input.bench import MESSAGE, PART, played, replayed
from tests.torture.input.events import samples
from tests.torture.input.target import Target
from tests.torture.input.trees import dented, mutated

__all__ = ["TARGET"]


def _seeds() -> list[bytes]:
    events = [PART.join([b"i", *frames]) for frames in samples()]
    others = [
        PART.join([b"i", b"_ping.1", b""]),
        PART.join([b"s", b"\x01_echo.1"]),
        PART.join([b"s", b"\x00feedback.given"]),
        PART.join([b"j", b"1", b"heads", b"{}"]),
        PART.join([b"j", b"1"]),
        PART.join([b"i", *samples()[0], b"attachment", b"another"]),
    ]
    return [*events, *others, MESSAGE.join(events), MESSAGE.join([events[0], events[0], *others])]


def _change(random: Random) -> object:
    def change(parts: list[bytes]) -> list[bytes]:
        if len(parts) > 2 and random.random() < 0.8:
            parts[2] = mutated(parts[2], random)
        else:
            at = random.randrange(len(parts))
            parts[at] = dented(parts[at], random)
        return parts

    return change


def _mutate(data: bytes, random: Random) -> bytes:
    return replayed(data, random, _change(random))


TARGET = Target(
    name="broker",
    about="the broker's frames",
    seeds=_seeds,
    mutate=_mutate,
    check=played,
    weight=1.5,
)
