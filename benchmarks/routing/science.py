"""A domain of numerical work: functions and classes of NumPy, SciPy and scikit-learn.

As in `demo.domain` a passage is a signature with its qualified name, its query the first sentence
of the docstring. The libraries are imported in a child process, all modules of which are read.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from demo.domain import Pair

__all__ = ["pairs"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300.0  # seconds
QUERY_CHARACTERS = (16, 300)
PASSAGE_CHARACTERS = 300
MODULES = {
    "numpy": ("", "fft", "linalg", "ma", "polynomial", "random"),
    "scipy": (
        "cluster.hierarchy",
        "cluster.vq",
        "fft",
        "integrate",
        "interpolate",
        "io",
        "linalg",
        "ndimage",
        "optimize",
        "signal",
        "sparse",
        "sparse.csgraph",
        "sparse.linalg",
        "spatial",
        "spatial.distance",
        "special",
        "stats",
    ),
    "sklearn": (
        "calibration",
        "cluster",
        "compose",
        "covariance",
        "cross_decomposition",
        "datasets",
        "decomposition",
        "discriminant_analysis",
        "ensemble",
        "feature_extraction",
        "feature_extraction.text",
        "feature_selection",
        "gaussian_process",
        "gaussian_process.kernels",
        "impute",
        "inspection",
        "isotonic",
        "kernel_approximation",
        "linear_model",
        "manifold",
        "metrics",
        "metrics.pairwise",
        "mixture",
        "model_selection",
        "multiclass",
        "naive_bayes",
        "neighbors",
        "neural_network",
        "pipeline",
        "preprocessing",
        "random_projection",
        "semi_supervised",
        "svm",
        "tree",
        "utils",
    ),
}


def pairs() -> tuple[Pair, ...]:
    """All pairs, by name; raises `RuntimeError` with the child's last words."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.routing.science"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(f"reading the libraries took longer than {LIMIT:.0f} s") from e
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"reading the libraries failed: {' '.join(last)}")
    return tuple(Pair(**item) for item in json.loads(done.stdout))


def walk() -> list[Pair]:
    """The pairs of what is installed; a sentence at several functions has no one right answer."""
    found: dict[str, list[Pair]] = {}
    seen: set[int] = set()
    for module in _modules():
        for name, member in _members(module):
            pair = None if id(member) in seen else _pair(name, member)
            if pair is not None:
                seen.add(id(member))
                found.setdefault(pair.query.casefold(), []).append(pair)
    unique = [same[0] for same in found.values() if len({pair.name for pair in same}) == 1]
    return sorted({pair.passage: pair for pair in unique}.values(), key=lambda pair: pair.name)


def _modules() -> Iterator[ModuleType]:
    for library, parts in MODULES.items():
        for part in parts:
            try:
                yield importlib.import_module(f"{library}.{part}".rstrip("."))
            except ImportError:  # of another version of the library
                continue


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    names = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
    library = module.__name__.partition(".")[0]
    for name in sorted(names):
        try:
            member = getattr(module, name, None)
        except ImportError:  # an experiment that must be switched on
            continue
        home = getattr(member, "__module__", None) or library
        if home.partition(".")[0] != library:
            continue
        if not (inspect.isclass(member) or callable(member)):
            continue
        yield f"{module.__name__}.{name}", member
        if inspect.isclass(member):
            for below, method in sorted(vars(member).items()):
                if not below.startswith("_") and inspect.isfunction(method):
                    yield f"{module.__name__}.{name}.{below}", method


def _pair(name: str, member: Any) -> Pair | None:
    query = _first_sentence(getattr(member, "__doc__", None))
    try:
        signature = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(member)))
    except (TypeError, ValueError, AttributeError):
        return None
    passage = f"{name}{signature}"
    if query is None or query in passage:
        return None
    return Pair(name, query, passage[:PASSAGE_CHARACTERS])


def _first_sentence(doc: object) -> str | None:
    """The first sentence of the first paragraph that is no signature written by hand."""
    if not isinstance(doc, str):
        return None
    for paragraph in inspect.cleandoc(doc).split("\n\n")[:2]:
        text = re.sub(r"\s+", " ", paragraph).strip()
        if re.match(r"^[\w.]+\(.*\)", text):
            continue
        sentence = re.split(r"(?<=[.!?])\s", text)[0].strip()
        shortest, longest = QUERY_CHARACTERS
        return sentence if shortest <= len(sentence) <= longest else None
    return None


if __name__ == "__main__":
    json.dump([vars(pair) for pair in walk()], sys.stdout)
