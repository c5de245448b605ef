"""The `consonance` command: everything a person does to a fleet, from a shell."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["main"]


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line (default: the process's own) and exit; see `exits` for the codes."""
    from services.command.app import main as run  # nothing else here needs what it imports

    run(words)
