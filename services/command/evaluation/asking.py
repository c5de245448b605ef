"""Asking the fleet, with a bar that tells how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from lora.errors import LoRAError
from lora.model import find_model
from services.command.evaluation.folder import Collection
from services.command.evaluation.run import Evaluation, Progress, evaluate
from services.command.place import Place, connected
from services.runtime.client import FleetClient

__all__ = ["evaluated"]

DEADLINE = 120_000
"""Milliseconds of one request: a fleet may be busy with others' for a while."""


async def evaluated(
    collection: Collection,
    models: tuple[str, ...],
    at: Place,
    *,
    k: int = 10,
    cache: Path | None = None,
) -> Evaluation:
    """Evaluate on the fleet that runs there; the vectors are kept in its state folder.

    Raises `NoFleet`, and what `evaluate` raises.
    """
    async with connected(at) as bus:
        if cache is None:  # of a fleet elsewhere there is no state folder yet
            at.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _bars() as progress:
            return await evaluate(
                FleetClient(bus, deadline_ms=DEADLINE),
                collection,
                models,
                cache or at.folder / "evaluation",
                k=k,
                weights=_weights(at),
                progress=progress,
            )


def _weights(at: Place) -> str | None:
    """SHA-256 of the fleet's model, where the fleet's settings lie on this machine."""
    if at.bus is not None or not (at.folder / "fleet" / "settings.toml").is_file():
        return None
    try:
        return find_model(at.settings.fleet.model).base_model.sha256
    except LoRAError:  # the fleet found it, or it would not run: it runs elsewhere
        return None


class _Rate(ProgressColumn):
    """Things a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@contextmanager
def _bars() -> Iterator[Progress]:
    """One for each step, where somebody looks at standard error."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int, found: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            # What was found took no time, and would promise a rate that is none.
            bars.update(tasks[what], total=total - found, completed=done - found)

        yield tell
