"""What may be spent in a day: reserved before a request, settled after it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.distiller.cloud.errors import UnavailableError
from services.runtime.settings import TeacherSettings
from services.runtime.store import transaction

__all__ = ["SCHEMA", "Budget", "Cost", "Reservation"]

KEPT = 31
"""Days whose sums are kept."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS days (
    day TEXT PRIMARY KEY, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, money REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Cost:
    """What something costs."""

    requests: int = 0
    tokens: int = 0
    """Sent and received."""
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests, self.tokens + other.tokens, self.money + other.money
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + Cost(-other.requests, -other.tokens, -other.money)


@dataclass(frozen=True)
class Reservation:
    """The most that something will cost, already counted as spent on its day."""

    day: str
    most: Cost


class Budget:
    """Sums by day (UTC), on disk before the request leaves.

    What was reserved is spent unless it is settled: a process that dies between the two has paid
    for the most that the request could cost, and the limit holds whenever it dies.
    """

    def __init__(
        self,
        store: sqlite3.Connection,
        settings: TeacherSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def cost(self, sent: int, received: int, requests: int = 1) -> Cost:
        """What so many tokens cost at the prices of the settings."""
        prices = self._settings
        money = (sent * prices.input_price + received * prices.output_price) / 1e6
        return Cost(requests, sent + received, money)

    def reserve(self, most: Cost) -> Reservation:
        """Count the most that a request may cost as spent today.

        Raises `UnavailableError`: it would go beyond the day's limit.
        """
        return self.reserve_first([most])[0]

    def reserve_first(self, costs: Sequence[Cost]) -> tuple[Reservation, int]:
        """Reserve for as many requests as fit, in order: one reservation, and how many they are.

        Raises `UnavailableError`: not even the first one fits.
        """
        today = self._today()
        with transaction(self._store):
            spent = self.spent(today)
            total, count = Cost(), 0
            for most in costs:
                try:
                    self._within(spent + total, most)
                except UnavailableError:
                    if not count:
                        raise
                    break
                total, count = total + most, count + 1
            self._store.execute("INSERT OR IGNORE INTO days VALUES (?, 0, 0, 0)", (today,))
            self._add(today, total)
            self._store.execute(
                "DELETE FROM days WHERE day NOT IN"
                " (SELECT day FROM days ORDER BY day DESC LIMIT ?)",
                (KEPT,),
            )
        return Reservation(today, total), count

    def settle(self, reservation: Reservation, cost: Cost) -> None:
        """What was reserved cost this in truth."""
        with transaction(self._store):
            self._add(reservation.day, cost - reservation.most)

    def spent(self, day: str | None = None) -> Cost:
        """What was spent, or is reserved, on a day (`2026-01-31`); today by default."""
        row = self._store.execute(
            "SELECT requests, tokens, money FROM days WHERE day = ?", (day or self._today(),)
        ).fetchone()
        return Cost() if row is None else Cost(row["requests"], row["tokens"], row["money"])

    def _add(self, day: str, cost: Cost) -> None:
        self._store.execute(
            "UPDATE days SET requests = requests + ?, tokens = tokens + ?, money = money + ?"
            " WHERE day = ?",
            (cost.requests, cost.tokens, cost.money, day),
        )

    def _within(self, spent: Cost, most: Cost) -> None:
        limits = self._settings
        for name, used, more, limit in (
            ("requests", spent.requests, most.requests, limits.requests_per_day),
            ("tokens", spent.tokens, most.tokens, limits.tokens_per_day),
            ("money", spent.money, most.money, limits.money_per_day),
        ):
            if more > limit:
                raise UnavailableError(
                    f"one request may need {more:,.6g} of a budget of teacher.{name}_per_day = "
                    f"{limit:,.6g}"
                )
            # Sums of prices are floating point; and what costs nothing is never too dear.
            if more and used + more > limit * (1 + 1e-9):
                raise UnavailableError(
                    f"the budget of the day is spent: {used:,.6g} of teacher.{name}_per_day = "
                    f"{limit:,.6g}, and the next request may need {more:,.6g}",
                    self._midnight(),
                )

    def _today(self) -> str:
        return self._now().date().isoformat()

    def _midnight(self) -> float:
        tomorrow = self._now().date() + timedelta(days=1)
        return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC).timestamp()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
