"""A contestant seen from outside: its processes, what it is asked, what it used."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.encode.child import Answer, Form, Task
from benchmarks.kit.children import Child

__all__ = ["Contestant", "NotHere", "Outcome", "cpu_of", "spent"]

CHILD = "benchmarks.encode.child"
Floats = npt.NDArray[np.float32]


class NotHere(Exception):
    """It is not installed, or not for this machine."""


class Outcome(NamedTuple):
    """One list, encoded."""

    seconds: float
    """Of all its processes, from the first text to the last vector."""
    cpu: float
    """Seconds of its processes, threads included."""
    each: tuple[float, ...]
    vectors: Floats


class Contestant:
    """One process or several of a kind (`child` has them), which share what they are given."""

    def __init__(
        self, kind: str, given: Mapping[str, Any], log: Path, *, processes: int = 1
    ) -> None:
        """Start them; raises `NotHere`, `BenchError`, as all that is asked of them does."""
        self._aside = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=log.parent))
        # make exports it for the fleet's sake; a peer keeps its own default.
        environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
        self._children: list[Child] = []
        try:
            for number in range(processes):
                settings = json.dumps({**given, "number": number} if kind == "fleet" else given)
                self._children.append(
                    Child(CHILD, kind, settings, environment=environment, log=log)
                )
            for child in self._children:
                if (missing := _answer(child).missing) is not None:
                    raise NotHere(missing)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its processes."""
        for child in self._children:
            child.close()

    def warm(self, texts: Sequence[str]) -> str | None:
        """Let it get ready on these; what it says of its choices."""
        return self._ask([Task(form="warm", texts=tuple(texts))])[0].note

    def encode(self, texts: Sequence[str], form: Form = "list", size: int = 1) -> Outcome:
        """Give it the texts, of several processes each its share; `size` is for all of them."""
        count = min(len(self._children), max(size, 1)) if form == "clients" else 1
        files = [self._aside / f"{number}.npy" for number in range(count)]
        tasks = [
            Task(
                form=form,
                texts=tuple(texts[number::count]),
                size=len(range(number, size, count)) if form == "clients" else size,
                out=str(files[number]),
            )
            for number in range(count)
        ]
        answers = self._ask(tasks)
        parts = [np.load(file) for file in files]
        vectors = np.empty((len(texts), parts[0].shape[1]), np.float32)
        for number, part in enumerate(parts):
            vectors[number::count] = part
        return Outcome(
            max(it.ended for it in answers) - min(it.began for it in answers),
            sum(it.cpu for it in answers),
            answers[0].each,
            vectors,
        )

    def _ask(self, tasks: Sequence[Task]) -> list[Answer]:
        asked = list(zip(self._children, tasks, strict=False))
        for child, task in asked:
            child.say(msgspec.json.encode(task).decode())
        return [_answer(child) for child, _ in asked]


def _answer(child: Child) -> Answer:
    return msgspec.json.decode(child.line(), type=Answer)


def cpu_of(root: int) -> dict[str, float]:
    """CPU seconds so far of the process `root` and its descendants, by what each is.

    A service's processes are counted together: `encoder`, `router`, `broker`; what is no module
    of ours counts as `other`.
    """
    top = psutil.Process(root)
    found: dict[str, float] = {}
    for process in (top, *top.children(recursive=True)):
        try:
            name, times = _service(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was used in between, by name."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _service(words: Sequence[str]) -> str:
    for word in words:
        if word.startswith("services."):
            return word.split(".")[1]
        if word == "bus":
            return "broker"
        if word == "run_all":
            return "supervisor"
    return "other"
