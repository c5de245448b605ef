"""What a fleet stands on while it is tortured: here its own broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bus import Bus
from tests.torture.fleet.findings import Report
from tests.torture.fleet.schedule import ACTIONS, SERVING, Action

__all__ = ["Ground"]


class Ground:
    """A fleet with a broker of its own; another ground overrides what is otherwise there."""

    part: str = "fleet"
    serving: Sequence[str] = SERVING
    """The processes that the fleet has when it is well."""
    actions: Mapping[str, tuple[Action, ...]] = ACTIONS
    """What is done to which process."""
    arguments: Sequence[str] = ("--workers", "2")
    settings: str = ""
    """Beside those that every fleet of the torture has, TOML."""
    chaos: float = 0.5
    calm: float = 0.31
    """Shares of the budget. In the calm it is seen whether memory grows; 0: it is not looked at."""

    @contextmanager
    def laid(self, folder: Path) -> Iterator[None]:
        """It holds for as long as the block runs; `folder` is its own."""
        yield

    async def shaken(self, seconds: float, seed: int, report: Report) -> None:
        """What happens to the ground itself, meanwhile; returns when it is whole again."""

    def lost(self) -> None:
        """The fleet was killed, and another one is to start: the ground may be new, too."""

    async def audit(self, bus: Bus, report: Report) -> None:
        """What the ground holds in the end."""
