"""One target under a fuzzer that is guided by coverage, in a process of its own.

    python -m tests.torture.input.fuzz TARGET FOLDER SECONDS SEED RUNS

Runs until the time is over or so many inputs were tried (-1: any number), exit 0; or until one
breaks a promise. It then lies in the folder as `crash-…`, `timeout-…` or `oom-…`.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path
from random import Random

__all__ = ["main"]

TIMEOUT = 10
"""Seconds that one input may take."""


def main(name: str, folder: str, seconds: str, seed: str, runs: str) -> None:
    import atheris

    warnings.simplefilter("ignore")  # of what is instrumented
    logging.disable(logging.CRITICAL)
    module = f"tests.torture.input.{name}"
    # What is imported from here on is instrumented, where it is ours and the target's.
    packages = importlib.import_module("tests.torture.input.packages").PACKAGES[name]
    with atheris.instrument_imports(include=list(packages)):
        target = importlib.import_module(module).TARGET
    corpus = Path(folder) / "corpus"
    corpus.mkdir()
    for number, seed_input in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed_input)
    for case in target.cases():
        (corpus / f"case-{case.name}").write_bytes(case.read_bytes())

    def one(data: bytes) -> None:
        target.check(data)

    def mutate(data: bytes, longest: int, number: int) -> bytes:
        random = Random(number)
        if not data or random.random() < 0.25:
            return bytes(atheris.Mutate(data, longest))
        for _ in range(random.choice([1, 1, 2, 4])):
            data = target.mutate(data, random)
        return data[:longest]

    flags = {
        "max_total_time": seconds,
        "runs": runs,
        "seed": seed,
        "timeout": TIMEOUT,
        "rss_limit_mb": target.memory,
        "max_len": target.longest,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
        "verbosity": 1,
        "len_control": 0,
    }
    words = [f"-{flag}={value}" for flag, value in flags.items()]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
