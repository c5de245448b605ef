"""`python -m benchmarks.federation`: how fast a card comes from a peer over the loopback.

One card is fetched, verified (SHA-256 and ed25519 signature) and installed, again and again, with
and without mutual TLS; in between the same file comes from the same process over a plain TCP
socket by sendfile, and over a bare Flight do_get. What is compared was measured in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
from pyarrow import flight
from rich.console import Console
from rich.table import Table

from benchmarks.federation import receive
from benchmarks.federation.sender import NODE
from benchmarks.kit.command import Benchmark, Found, add_output, measured_on, progress_bar
from lora.card import Adapter, BaseModel, LoRACard
from lora.store import CardStore
from services.federation.authority import create_authority, issue
from services.federation.client import LoRAFlightClient
from services.federation.connection import Connection
from services.federation.credentials import Credentials
from services.federation.errors import FederationError
from services.federation.protocol import Endpoint
from services.federation.server import LOOPBACK

FEDERATION = Benchmark(
    name="federation", about=__doc__, wrong=(OSError,), failed=(FederationError,)
)


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = FEDERATION.parser()
    parser.add_argument("--megabytes", type=int, default=50, help="size of the card (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="%(default)s")
    add_output(parser)
    given = parser.parse_args(argv)
    if not 1 <= given.megabytes <= 200 or given.rounds < 1:
        parser.error("--megabytes should be from 1 to 200, --rounds at least 1")
    return given


def card_of(megabytes: int) -> LoRACard:
    """A card of that size: adapters of random values on as many layers as it takes."""
    random = np.random.default_rng(0)
    width, rank = 512, 256

    def adapter() -> Adapter:
        a = random.normal(size=(width, rank)).astype(np.float32)
        return Adapter(a=a, b=a.T.copy(), rank=rank, alpha=rank)

    count = max(1, (megabytes << 20) // (2 * 4 * width * rank))
    modules = {f"layer.{number}.query": adapter() for number in range(count)}
    model = BaseModel("made for a benchmark", "0" * 64)
    return LoRACard(name="large", base_model=model, dim=width, modules=modules, rank=rank)


@contextlib.contextmanager
def sender(folder: Path) -> Iterator[tuple[dict[str, int], str, psutil.Process]]:
    """The process that sends: its ports, its public key, itself."""
    command = [sys.executable, "-m", "benchmarks.federation.sender", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101  (a pipe was asked for)
        assert process.stdin is not None  # noqa: S101
        told = json.loads(process.stdout.readline())
        try:
            yield told["ports"], told["key"], psutil.Process(process.pid)
        finally:
            process.stdin.close()
            process.terminate()


class Memory:
    """The most that a process had of its own, mappings of files not counted, while sampled."""

    def __init__(self, process: psutil.Process) -> None:
        self._status = Path(f"/proc/{process.pid}/status")
        self.before = self.most = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes."""
        return self.most - self.before

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        return 1024 * int(lines["RssAnon"].split()[0])


def measure(given: argparse.Namespace, console: Console) -> Found:
    """Round by round; raises a `FederationError` where a card does not come."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = CardStore(folder).put(card_of(given.megabytes))
        digest, size = card.key, card.bytes or 0
        del card
        create_authority(folder / "authority", "benchmark")
        for node in (NODE, "receiver"):
            issue(folder / "authority", node, folder / node)
        credentials = Credentials.load(folder / "receiver", "receiver")
        with sender(folder) as (ports, key, process):
            clients = {
                "ours": _client(folder / "cache", key, ports["ours"], None),
                "secured": _client(folder / "secured", key, ports["secured"], credentials),
            }
            flights = {
                name: flight.connect(f"grpc://{LOOPBACK}:{port}")
                for name, port in ports.items()
                if name.startswith("bare")
            }
            plain = Connection(Endpoint(LOOPBACK, ports["ours"]), node=NODE)
            seconds: dict[str, list[float]] = {}
            aside = folder / "aside"

            def note(name: str, value: float) -> None:
                seconds.setdefault(name, []).append(value)

            def ours(name: str) -> None:
                found = receive.ours(clients[name], digest)
                for step, value in zip(found._fields, found, strict=True):
                    note(f"{name} {step}", value)

            steps: list[Callable[[], None]] = [
                lambda: note("sendfile", receive.sendfile(ports["sendfile"], None)),
                lambda: note("sendfile file", receive.sendfile(ports["sendfile"], aside)),
                *(
                    lambda name=name, client=client, into=into: note(  # type: ignore[misc]
                        f"{name}{' file' if into else ''}", receive.bare(client, into)
                    )
                    for name, client in flights.items()
                    for into in (None, aside)
                ),
                lambda: note("frames", receive.frames(plain, digest)),
                lambda: ours("ours"),
                lambda: ours("secured"),
            ]
            for step in steps:  # connections, caches, threads
                step()
            seconds.clear()
            with progress_bar(console) as bar:
                for number in bar.track(range(given.rounds), description="rounds"):
                    # Each goes first and last equally often.
                    shift = number % len(steps)
                    for step in steps[shift:] + steps[:shift]:
                        os.sync()  # what the step before has left to the disk is not this one's
                        step()
            grown = {}
            for end, what in ((process, "sender"), (psutil.Process(), "receiver")):
                with Memory(end) as memory:
                    for _ in range(5):
                        receive.ours(clients["ours"], digest)
                grown[what] = memory.growth
            for open_ in (*clients.values(), plain):
                open_.close()
    found: Found = {
        "bytes": size,
        "rounds": given.rounds,
        "seconds_each": seconds,
        "growth_bytes": grown,
        **{name: _ratio(seconds, *pair) for name, pair in RATIOS.items()},
        **measured_on(began),
    }
    show(found, console)
    return found


RATIOS = {
    "frames_to_bare": ("frames", "bare 512"),
    "streamed_to_bare": ("ours streamed", "bare 512"),
    "streamed_to_bare_file": ("ours streamed", "bare 512 file"),
    "secured_to_bare": ("secured streamed", "bare 512"),
}
"""Of two speeds: the median over the rounds of the second time over the first."""


def _ratio(seconds: dict[str, list[float]], ours: str, other: str) -> float:
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[other], strict=True))


def _client(cache: Path, key: str, port: int, credentials: Credentials | None) -> LoRAFlightClient:
    client = LoRAFlightClient(cache, trusted={key}.__contains__, credentials=credentials)
    client.add_peer(NODE, Endpoint(LOOPBACK, port, credentials is not None))
    client.list_remote_skills()
    return client


NAMES = {
    "sendfile": "plain TCP, sendfile, dropped",
    "sendfile file": "plain TCP, sendfile, written to a file",
    "bare 64": "bare Flight do_get, 64 KiB a batch, dropped",
    "bare 64 file": "bare Flight do_get, 64 KiB a batch, written to a file",
    "bare 512": "bare Flight do_get, 512 KiB a batch, dropped",
    "bare 512 file": "bare Flight do_get, 512 KiB a batch, written to a file",
    "frames": "ours: the frames alone, dropped",
    "ours streamed": "ours: hashed and written",
    "ours fetched": "ours: … and signature checked, flushed, in its place",
    "ours installed": "ours: … and opened, every value checked",
    "secured streamed": "ours, mutual TLS: hashed and written",
    "secured fetched": "ours, mutual TLS: … in its place",
    "secured installed": "ours, mutual TLS: … and opened",
}


def show(found: Found, console: Console) -> None:
    """The table for people."""
    table = Table("", "median ms", "least ms", "MB/s", title=f"{found['bytes']:,} bytes")
    for name, label in NAMES.items():
        taken = found["seconds_each"][name]
        middle = statistics.median(taken)
        rate = found["bytes"] / middle / 1e6
        table.add_row(label, f"{1e3 * middle:.0f}", f"{1e3 * min(taken):.0f}", f"{rate:.0f}")
    console.print(table)
    console.print(
        "of the speed of a bare do_get (512 KiB) in the same round: "
        f"our frames alone {found['frames_to_bare']:.2f}; hashed and written "
        f"{found['streamed_to_bare']:.2f}, with mutual TLS {found['secured_to_bare']:.2f}; "
        f"and of one that is written to a file {found['streamed_to_bare_file']:.2f}"
    )
    grown = found["growth_bytes"]
    console.print(
        f"memory beyond the mapping: sender {grown['sender'] / 1e6:+.1f} MB, "
        f"receiver {grown['receiver'] / 1e6:+.1f} MB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong option or folder, 130 interrupted."""
    given = options_of(argv)
    return FEDERATION.perform(given, measure, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
