"""What is fed: one target a door, each with its promise written as a check."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import structlog

__all__ = ["CASES", "Broken", "Slow", "Target", "hold", "silence", "within"]

CASES = Path(__file__).with_name("cases")
"""A folder for each target, a file for each input that once broke its promise."""


class Broken(AssertionError):
    """A promise that an input broke."""


class Slow(BaseException):
    """An input took too long. No `Exception`: nothing that handles errors may swallow it."""


@dataclass(frozen=True)
class Target:
    """Something that takes bytes from outside."""

    name: str
    about: str
    seeds: Callable[[], list[bytes]]
    """Sound inputs, and some that are nearly so: what the mutations start from."""
    mutate: Callable[[bytes, Random], bytes]
    """The input with something changed in its structure, checksums and lengths in order again."""
    check: Callable[[bytes], bool]
    """Whether it was taken; raises `Broken`, or anything that the door does not document."""
    weight: float = 1.0
    """Its share of the time."""
    longest: int = 1 << 16
    """Bytes of the inputs that a fuzzer makes."""
    memory: int = 1024
    """Megabytes that the process may hold."""

    def cases(self) -> list[Path]:
        """The inputs that once broke it."""
        folder = CASES / self.name
        return sorted(path for path in folder.glob("*") if path.is_file())


def hold(promise: object, words: str) -> None:
    """Raise `Broken` where the promise is not kept."""
    if not promise:
        raise Broken(words)


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise `Slow` in the middle of whatever takes longer; in the main thread only."""

    def late(number: int, frame: FrameType | None) -> Any:
        raise Slow(f"not done within {seconds} s")

    left, _ = signal.getitimer(signal.ITIMER_REAL)  # that of a whole test, perhaps
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is logged meanwhile: thousands of inputs are refused, each with a line."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)
