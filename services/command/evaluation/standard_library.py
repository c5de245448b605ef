"""A domain that is on every machine: the standard library of the Python that runs.

A passage is a signature with its qualified name and nothing else; its query is the first
sentence of the docstring. The walk imports every module it can, so `pairs` has a child process
run this file, without site-packages, and stays clean itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import pkgutil
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Pair", "Split", "pairs", "split", "walk"]

SKIPPED = {
    "antigravity",  # opens a browser
    "distutils",  # gone from 3.12 on, or somebody else's under its name
    "idlelib",  # an application
    "lib2to3",  # deprecated, and gone from 3.13 on
    "test",
    "this",  # prints a poem
    "tkinter",  # needs a display
    "turtle",
    "turtledemo",
    "ensurepip",
}
PARTS_SKIPPED = {"__main__", "test", "tests", "idle_test"}
WALK_LIMIT = 120.0  # seconds
QUERY_CHARACTERS = (16, 300)
PASSAGE_CHARACTERS = 300


@dataclass(frozen=True)
class Pair:
    """One function or class: what people would ask, and what should be found."""

    name: str
    """`json.dumps`: unique."""
    query: str
    passage: str


@dataclass(frozen=True)
class Split:
    """The pairs in two halves that share no query, each in a fixed shuffled order."""

    feedback: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def pairs() -> tuple[Pair, ...]:
    """All pairs, found in a child process; raises `RuntimeError` with its last words."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", str(Path(__file__).resolve())],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=WALK_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(
            f"reading the standard library took longer than {WALK_LIMIT:.0f} s"
        ) from e
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"reading the standard library failed: {' '.join(last)}")
    return tuple(Pair(**item) for item in json.loads(done.stdout))


def split(all_pairs: tuple[Pair, ...]) -> Split:
    """By function: a hash of the name decides the half and the order, the same everywhere."""

    def place(pair: Pair) -> bytes:
        return hashlib.sha256(f"split {pair.name}".encode()).digest()

    ordered = sorted(all_pairs, key=place)
    feedback = tuple(pair for pair in ordered if place(pair)[-1] % 2 == 0)
    held_out = tuple(pair for pair in ordered if place(pair)[-1] % 2 == 1)
    return Split(feedback=feedback, held_out=held_out)


def walk() -> list[Pair]:
    """The pairs of everything that can be imported here, in the order of the names."""
    found: dict[str, Pair] = {}
    seen: set[int] = set()
    for module in _modules():
        for name, member in _members(module):
            if id(member) in seen:
                continue
            pair = _pair(name, member)
            if pair is not None:
                seen.add(id(member))
                found.setdefault(pair.name, pair)
    unique: dict[str, Pair] = {}
    passages: set[str] = set()
    for name in sorted(found):
        pair = found[name]
        key = pair.query.casefold()
        # The same sentence at several functions has no single right answer.
        if key not in unique and pair.passage not in passages:
            unique[key] = pair
            passages.add(pair.passage)
    return sorted(unique.values(), key=lambda pair: pair.name)


def _modules() -> Iterator[ModuleType]:
    """Public modules: those below a package only where they declare `__all__`."""
    for name in sorted(sys.stdlib_module_names):
        if name in SKIPPED or name.startswith("_"):
            continue
        module = _imported(name)
        if module is None:
            continue
        yield module
        for path in sorted(_submodules(module)):
            below = _imported(path)
            if below is not None and hasattr(below, "__all__"):
                yield below


def _submodules(package: ModuleType) -> Iterator[str]:
    for info in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}."):
        last = info.name.rpartition(".")[2]
        if last in PARTS_SKIPPED or last.startswith("_"):
            continue
        yield info.name
        if info.ispkg:
            below = _imported(info.name)
            if below is not None:
                yield from _submodules(below)


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):  # another platform's, or one that was built without it
        return None


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    public = getattr(module, "__all__", None)
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or (public is not None and name not in public):
            continue
        if not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        if not _belongs(member, module, declared=public is not None):
            continue
        yield f"{module.__name__}.{name}", member
        if inspect.isclass(member):
            for below, method in sorted(vars(member).items()):
                if not below.startswith("_"):
                    yield f"{module.__name__}.{name}.{below}", _unwrapped(method)


def _belongs(member: Any, module: ModuleType, *, declared: bool) -> bool:
    """True for the module's own, for what a package offers of its parts, and for code in C."""
    home = getattr(member, "__module__", None) or "_"
    if declared and home.startswith(f"{module.__name__}."):
        return True
    # In C, in a private module, and offered to the public by this one.
    return home == module.__name__ or home.startswith("_") or home in ("builtins", "posix", "nt")


def _unwrapped(method: Any) -> Any:
    return method.__func__ if isinstance(method, staticmethod | classmethod) else method


def _pair(name: str, member: Any) -> Pair | None:
    if not (inspect.isroutine(member) or inspect.isclass(member)):
        return None
    query = _first_sentence(getattr(member, "__doc__", None))
    signature = _signature(member)
    if query is None or signature is None:
        return None
    passage = f"{name}{signature}"
    if query in passage:  # a docstring that only repeats the signature
        return None
    return Pair(name=name, query=query, passage=passage[:PASSAGE_CHARACTERS])


def _signature(member: Any) -> str | None:
    try:
        text = str(inspect.signature(member))
    except (TypeError, ValueError, NameError, AttributeError):
        return None
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # an address is another one at every start


def _first_sentence(doc: object) -> str | None:
    if not isinstance(doc, str):
        return None
    paragraph = inspect.cleandoc(doc).split("\n\n")[0]
    text = re.sub(r"\s+", " ", paragraph).strip()
    if re.match(r"^[\w.]+\(.*\) ?(->|--|$)", text):  # a signature written by hand
        return None
    sentence = re.split(r"(?<=[.!?])\s", text)[0].strip()
    shortest, longest = QUERY_CHARACTERS
    return sentence if shortest <= len(sentence) <= longest else None


def main() -> None:
    """Print the pairs as JSON; whatever the modules themselves say is swallowed."""
    answer = sys.stdout
    random.seed(0)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        found = walk()
    json.dump([vars(pair) for pair in found], answer)


if __name__ == "__main__":
    main()
