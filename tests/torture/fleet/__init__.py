"""A real fleet, whose processes are killed, frozen and restarted while it serves and learns."""

from __future__ import annotations

from tests.torture.fleet.course import ABOUT, MINUTES, run

__all__ = ["ABOUT", "MINUTES", "run"]
