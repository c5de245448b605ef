"""A contestant seen from outside: its processes, what it is asked, what it used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from benchmarks.kit.fleet import ROOT

__all__ = ["Contestant", "ContestantFailed", "NotHere", "Outcome", "cpu_of", "spent"]

Floats = npt.NDArray[np.float32]


class ContestantFailed(Exception):
    """Its process ended by itself."""


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
        """Start them; raises `NotHere`, `ContestantFailed`."""
        self.kind = kind
        self._log = log
        self._aside = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=log.parent))
        # make exports it for the fleet's sake; a peer keeps its own default.
        environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(processes):
                settings = json.dumps({**given, "number": number} if kind == "fleet" else given)
                with log.open("ab") as file:
                    self._processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "benchmarks.encode.child", kind, settings],
                            cwd=ROOT,
                            env=environment,
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=file,
                            start_new_session=True,  # Ctrl-C is this process's to hear
                        )
                    )
            for process in self._processes:
                if (missing := self._hear(process).missing) is not None:
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
        """End its processes: what they read ends, and where they are busy a signal comes."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Not before it has ended: another thread may still be reading there.
            if process.stdout is not None:
                process.stdout.close()

    def warm(self, texts: Sequence[str]) -> str | None:
        """Let it get ready on these; what it says of its choices."""
        return self._ask([Task(form="warm", texts=tuple(texts))])[0].note

    def encode(self, texts: Sequence[str], form: Form = "list", size: int = 1) -> Outcome:
        """Give it the texts, of several processes each its share; `size` is for all of them."""
        count = min(len(self._processes), max(size, 1)) if form == "clients" else 1
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
        asked = list(zip(self._processes, tasks, strict=False))
        for process, task in asked:
            assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
            try:
                process.stdin.write(msgspec.json.encode(task) + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise self._failed(process) from None
        return [self._hear(process) for process, _ in asked]

    def _hear(self, process: subprocess.Popen[bytes]) -> Answer:
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        if not line:
            raise self._failed(process)
        return msgspec.json.decode(line, type=Answer)

    def _failed(self, process: subprocess.Popen[bytes]) -> ContestantFailed:
        code = process.wait()
        said = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
        return ContestantFailed(f"{self.kind} ended with {code} and said: {said[0]}")


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
