"""Vectors of queries and passages, asked of the fleet: as served, and in the base space."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas import AppliedSkill, Role
from services.dissonance_monitor.memory import Memory
from services.errors import EncodeFailedError
from services.runtime.client import Encoded, FleetClient, Route

__all__ = ["Embedder", "Served", "together"]

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Served:
    """One query, embedded."""

    base: Vector
    """(dim,) by the base model."""
    vector: Vector
    """(dim,) as it was served; the base vector itself where no card was applied."""
    skills: tuple[AppliedSkill, ...]


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What all of them give; where one fails the others are ended: nobody waits for them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class Embedder:
    """Asks for each text once; base vectors of remembered passages are not asked for at all."""

    def __init__(self, client: FleetClient, memory: Memory) -> None:
        self._client = client
        self._memory = memory

    async def queries(self, asked: Sequence[tuple[str, tuple[str, ...] | None]]) -> list[Served]:
        """Embed pairs of a query and the digests that served it (none: base; None: unknown).

        Digests that are no longer installed are answered by the present routing.
        Raises `EncodeFailedError`, `bus.RequestTimeout`.
        """
        by_cards: dict[tuple[str, ...] | None, list[int]] = {}
        for row, (_, served) in enumerate(asked):
            by_cards.setdefault(served, []).append(row)
        bent: dict[int, tuple[Vector, tuple[AppliedSkill, ...]]] = {}
        groups = [(cards, rows) for cards, rows in by_cards.items() if cards != ()]
        answers = await together(
            *(self._served([asked[row][0] for row in rows], cards) for cards, rows in groups)
        )
        base: dict[str, Vector] = {}
        for (_, rows), answer in zip(groups, answers, strict=True):
            for row, vector, made in zip(rows, answer.vectors, answer.rows, strict=True):
                bent[row] = (vector, made.skills)
                if not made.skills:
                    base[asked[row][0]] = vector
        missing = [query for query, _ in asked if query not in base]
        base |= await self._base(missing, "query")
        found = []
        for row, (query, _) in enumerate(asked):
            vector, skills = bent.get(row, (base[query], ()))
            found.append(Served(base[query], vector if skills else base[query], skills))
        return found

    async def passages(self, texts: Iterable[str]) -> dict[str, Vector]:
        """Base vectors of passages. Raises `EncodeFailedError`, `bus.RequestTimeout`."""
        wanted = list(dict.fromkeys(texts))
        known = self._memory.vectors(wanted)
        return known | await self._base([text for text in wanted if text not in known], "document")

    async def _served(self, queries: Sequence[str], cards: tuple[str, ...] | None) -> Encoded:
        if cards:
            try:
                return await self._encode(queries, "query", "named", cards)
            except EncodeFailedError as error:
                if error.code not in ("unknown_skill", "invalid"):
                    raise
        return await self._encode(queries, "query", "auto")

    async def _base(self, texts: Sequence[str], role: Role) -> dict[str, Vector]:
        wanted = list(dict.fromkeys(texts))
        if not wanted:
            return {}
        answer = await self._encode(wanted, role, "base")
        self._memory.serves(answer.model)
        return dict(zip(wanted, answer.vectors, strict=True))

    async def _encode(
        self, texts: Sequence[str], role: Role, route: Route, skills: Sequence[str] = ()
    ) -> Encoded:
        return await self._client.encode(texts, role=role, route=route, skills=skills)
