"""`python -m benchmarks.encode`: single texts through a whole fleet, and the same without it.

A fleet with its default settings gets single texts from many concurrent clients over the bus. In
the same rounds sentence-transformers and ONNX Runtime, each in a process of its own, get the same
texts as one list. Then some texts go one after another. All vectors must agree.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.encode.contestant import Contestant, NotHere
from benchmarks.encode.findings import report_of
from benchmarks.encode.rounds import BULK, Course, WrongVectors
from benchmarks.encode.texts import NotEnoughTexts, Texts, model_tokens, standard_library
from benchmarks.kit.children import BenchError
from benchmarks.kit.command import (
    Benchmark,
    Found,
    add_model,
    add_output,
    measured_on,
    progress_bar,
)
from benchmarks.kit.fleet import FleetFailed, fresh_state, running_fleet, settings_file
from benchmarks.kit.show import show
from lora.errors import ModelError
from lora.model import find_model

ENCODE = Benchmark(
    name="encode",
    about=__doc__,
    wrong=(ModelError, NotEnoughTexts, OSError),
    failed=(BenchError, FleetFailed, TimeoutError, WrongVectors),
)
WARM = 512
"""Texts before the first round."""
DTYPES = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
"""Of the peers, with the least cosine that counts as the same vector."""


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ENCODE.parser()
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--texts", type=int, default=2048, help="of a round (%(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="at once (%(default)s)")
    parser.add_argument(
        "--client-processes", type=int, default=1, help="that the clients share (%(default)s)"
    )
    parser.add_argument(
        "--single", type=int, default=200, help="texts one after another, of a round (%(default)s)"
    )
    parser.add_argument("--bulk", action="store_true", help="the fleet also gets whole lists")
    parser.add_argument("--engine", action="store_true", help="our engine without a bus, too")
    parser.add_argument("--no-onnx", action="store_true", help="without ONNX Runtime")
    parser.add_argument("--workers", type=int, help="encoder processes (as the fleet chooses)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="%(default)s")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--log", type=Path, help="file that keeps what all processes log")
    add_model(parser)
    add_output(parser)
    given = parser.parse_args(argv)
    least = min(given.rounds, given.texts, given.clients, given.client_processes)
    if least < 1 or given.single < 0 or given.client_processes > given.clients:
        parser.error(
            "--rounds, --texts, --clients and --client-processes should be at least 1, --single "
            "at least 0, and no more processes than clients"
        )
    given.command = shlex.join(
        ["python", "-m", "benchmarks.encode", *(sys.argv[1:] if argv is None else argv)]
    )
    return given


async def measure(given: argparse.Namespace, console: Console) -> Found:
    """All of it; raises what `ENCODE` expects."""
    began = time.monotonic()
    folder = find_model(given.model).folder
    texts = Texts(standard_library(model_tokens(folder)), given.seed)
    warm = texts.draw(min(WARM, 4 * given.texts))
    with fresh_state() as state, contextlib.ExitStack() as stack:
        log = (given.log or state / "benchmark.log").absolute()
        config = settings_file(state, _settings(given))
        setting = {
            "folder": str(folder),
            "aside": str(state),
            "device": given.device,
            "dtype": given.dtype,
        }
        kinds = ["sentence-transformers"]
        kinds += [] if given.no_onnx else ["onnxruntime"]
        kinds += ["engine"] if given.engine else []
        peers, notes = {}, []
        for kind in kinds:
            try:
                peer = stack.enter_context(Contestant(kind, setting, log))
            except NotHere as error:
                notes.append(f"{kind} was left out: {error}")
                continue
            if said := peer.warm(warm):
                notes.append(f"{kind}: {said}")
            peers[kind] = peer
        async with running_fleet(
            state / "fleet", config=config, workers=given.workers, model=given.model, log=log
        ) as fleet:
            clients = stack.enter_context(
                Contestant("fleet", {"bus": fleet.bus}, log, processes=given.client_processes)
            )
            clients.encode(warm, "clients", given.clients)
            course = Course(
                fleet=clients,
                process=fleet.process.pid,
                peers=peers,
                texts=texts,
                count=given.texts,
                clients=given.clients,
                single=given.single,
                bulk=tuple(BULK) if given.bulk else (),
                cosine=DTYPES[given.dtype],
            )
            with progress_bar(console) as bar:
                task = bar.add_task("rounds", total=given.rounds * course.steps)
                await asyncio.to_thread(course.run, given.rounds, lambda: bar.advance(task))
            clients.close()
    report = report_of(
        course,
        command=given.command,
        machine=measured_on(began),
        processes=given.client_processes,
        notes=notes,
    )
    show(report, console)
    return report.found()


def _settings(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """As they are by default, but on a GPU if that is what is measured."""
    if given.device == "cpu":
        return {}
    return {"encoder": {"device": given.device, "batch_tokens": 8192}}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or vectors differ, 2 wrong option or model, 130 interrupted."""
    given = options_of(argv)
    return ENCODE.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
