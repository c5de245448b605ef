"""`run_all.py` over dummy processes: the first word names their modes, the rest is its own."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

from services.fleet import cli, output
from services.fleet.beats import Beat
from services.fleet.plan import Part
from tests.services.fleet.harness import part

_beats: asyncio.Queue[Beat] = asyncio.Queue()


class Listening(output.Output):
    """Hears the dummies' beats where it reads their lines."""

    def line(self, part: Part, text: str) -> None:
        if text.startswith("BEAT "):
            _beats.put_nowait(Beat(int(text.split()[1]), "ready"))
        else:
            super().line(part, text)


@asynccontextmanager
async def _listen() -> AsyncIterator[AsyncIterator[Beat]]:
    yield _every_beat()


async def _every_beat() -> AsyncIterator[Beat]:
    while True:
        yield await _beats.get()


def main(modes: str, *words: str) -> None:
    carrier = ModuleType("services.fleet.bus_beats")
    carrier.beats_of = lambda _url, _environment: _listen  # type: ignore[attr-defined]
    carrier.doubts = lambda _url: None  # type: ignore[attr-defined]
    carrier.prepare = lambda _url, _state: {}  # type: ignore[attr-defined]
    sys.modules[carrier.__name__] = carrier
    parts = tuple(part(f"part-{number}", mode) for number, mode in enumerate(modes.split(",")))
    cli.Output = Listening  # type: ignore[misc]
    cli.plan = lambda *_, **__: parts  # type: ignore[assignment]
    cli.main(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
