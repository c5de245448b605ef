"""The fleet's torture on three NATS servers, which suffer as it does."""

from __future__ import annotations

from typing import Final

from tests.torture.fleet.course import run_on
from tests.torture.fleet_on_cluster.ground import OnCluster
from tests.torture.kit import Outcome, Say

__all__ = ["ABOUT", "MINUTES", "run"]

MINUTES: Final = 8.0
ABOUT: Final = (
    "a fleet with two routers on three NATS servers while its processes and the servers are killed,"
    " frozen and restarted"
)


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """The long form; some three minutes at least."""
    return run_on(OnCluster(), minutes, seed, say)
