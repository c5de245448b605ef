"""Requests by the Batch API: one file, answered within a day, found again after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from services.distiller.cloud.answers import TOO_LONG, Answers
from services.distiller.cloud.budget import Budget, Cost, Reservation
from services.distiller.cloud.endpoint import Completion, Endpoint, content_of
from services.distiller.cloud.errors import NotOfferedError, PartError, TruncatedError
from services.runtime.store import add_columns, transaction

__all__ = ["SCHEMA", "Batches"]

POLL = 300.0
"""Seconds between two looks at a batch under way."""

MARK = "consonance"
"""Metadata key of our batches: which requests they hold."""

NO_ANSWER = b"{}"
"""Stands where a batch gave no answer: nobody can read it, so the request is made directly."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    digest TEXT PRIMARY KEY,
    id TEXT,  -- null: about to be made
    day TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, money REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batched (
    key BLOB PRIMARY KEY, digest TEXT NOT NULL REFERENCES batches (digest) ON DELETE CASCADE,
    domain TEXT  -- null: from before domains were noted
) WITHOUT ROWID;
"""

T = TypeVar("T")
Body = Mapping[str, Any]


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    body: msgspec.Raw


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    response: _Response | None = None


class Batches:
    """The batches under way; what they answer goes where direct answers go."""

    def __init__(
        self,
        store: sqlite3.Connection,
        endpoint: Endpoint,
        budget: Budget,
        answers: Answers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        add_columns(store, "batched", {"domain": "TEXT"})
        self._endpoint = endpoint
        self._budget = budget
        self._answers = answers
        self._clock = clock
        self._log: Any = structlog.get_logger()
        self._one = asyncio.Lock()  # two domains would collect, and settle, the same batch twice
        self.offered = True
        """False once the server was found to have no Batch API."""

    async def advance(self, wanted: Mapping[bytes, Body], domain: str) -> tuple[str, float] | None:
        """Collect what is done and send off what is new among a domain's requests, by key.

        Returns why, and until when (seconds since the epoch), there is something to wait for;
        None where nothing is: what is not answered by then is to be asked directly.
        Raises `UnavailableError`.
        """
        if not self.offered or not wanted:
            return None
        async with self._one:
            return await self._advance(wanted, domain)

    def forget(self, domain: str) -> None:
        """What is under way for a domain is not kept when it comes, nor is what names none."""
        forget(self._store, domain)

    async def _advance(self, wanted: Mapping[bytes, Body], domain: str) -> tuple[str, float] | None:
        try:
            await self._collect()
            known = self._keys()
            fresh = {
                key: body
                for key, body in wanted.items()
                if key not in known and self._answers.get(key) is None
            }
            if fresh:
                await self._send(fresh, domain)
        except NotOfferedError as error:
            self.offered = False
            self._log.warning("no batch API there: asking directly", why=str(error))
            return None
        running = self._keys() & set(wanted)
        if not running:
            return None
        return f"a batch of {len(running)} requests is under way", self._clock() + POLL

    async def _collect(self) -> None:
        """Take the answers of batches that ended."""
        for row in self._store.execute("SELECT * FROM batches").fetchall():
            name = row["id"] or await self._find(row["digest"])
            if name is None:  # it was never made
                self._end(row, Cost())
                continue
            try:
                batch = await self._call(partial(self._client.batches.retrieve, name))
            except NotOfferedError:  # the server has forgotten it; what it cost is unknown
                self._log.warning("batch lost", batch=name)
                self._give_up(row["digest"])
                self._drop(row["digest"])
                continue
            if batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
                continue
            file = batch.output_file_id
            lines = b"" if file is None else await self._download(file)
            cost = self._take(row["digest"], lines)
            self._give_up(row["digest"])
            self._end(row, cost)
            self._log.info("batch collected", batch=name, status=batch.status, tokens=cost.tokens)

    def _give_up(self, digest: str) -> None:
        """What a batch did not answer is no matter for another batch."""
        for key, domain in self._domains(digest).items():
            if self._answers.get(key) is None:
                self._answers.put(key, NO_ANSWER, domain)

    async def _find(self, digest: str) -> str | None:
        """The batch that was made just before this process died, if it was."""
        page = await self._call(lambda: self._client.batches.list(limit=100))
        for batch in page.data:
            if (batch.metadata or {}).get(MARK) == digest:
                return str(batch.id)
        return None

    async def _download(self, file: str) -> bytes:
        found = await self._call(lambda: self._client.files.content(file))
        return bytes(found.content)

    def _take(self, digest: str, lines: bytes) -> Cost:
        """Keep the answers of a batch's output file, but what was forgotten; what they cost."""
        domains = self._domains(digest)
        total = Cost()
        for text in lines.splitlines():
            try:
                line = msgspec.json.decode(text, type=_Line)
                key = bytes.fromhex(line.custom_id)
                if line.response is None or line.response.status_code != 200:
                    continue
                found = msgspec.json.decode(line.response.body, type=Completion)
            except ValueError:  # msgspec's errors are such, too
                continue
            cost = self._endpoint.spent({}, found)
            total += Cost(0, cost.tokens, cost.money)
            if key not in domains:
                continue
            try:
                self._answers.put(key, content_of(found).encode(), domains[key])
            except TruncatedError:
                self._answers.put(key, TOO_LONG, domains[key])
            except PartError:
                continue  # asked once more, directly
        return total

    async def _send(self, fresh: Mapping[bytes, Body], domain: str) -> None:
        """Make one batch of as many requests as the budget holds."""
        keys = list(fresh)
        reservation, count = self._budget.reserve_first(
            [self._endpoint.most(fresh[key]) for key in keys]
        )
        keys = keys[:count]
        digest = hashlib.sha256(b"".join(sorted(keys))).hexdigest()
        most = reservation.most
        with transaction(self._store):
            self._store.execute(
                "INSERT INTO batches VALUES (?, NULL, ?, ?, ?, ?)",
                (digest, reservation.day, most.requests, most.tokens, most.money),
            )
            self._store.executemany(
                "INSERT INTO batched VALUES (?, ?, ?)", [(key, digest, domain) for key in keys]
            )
        try:
            made = await self._make(digest, [(key, fresh[key]) for key in keys])
        except NotOfferedError:
            self._end(self._row(digest), Cost())
            raise
        except PartError as error:
            self._log.warning("batch not taken: asking directly", why=str(error))
            self._give_up(digest)
            self._end(self._row(digest), Cost())
            return
        self._store.execute("UPDATE batches SET id = ? WHERE digest = ?", (made, digest))
        self._log.info("batch sent", batch=made, requests=count)

    async def _make(self, digest: str, requests: Sequence[tuple[bytes, Body]]) -> str:
        lines = b"\n".join(
            msgspec.json.encode(
                {
                    "custom_id": key.hex(),
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": self._endpoint.dialect.chat(body),
                }
            )
            for key, body in requests
        )
        file = await self._call(
            lambda: self._client.files.create(
                file=("requests.jsonl", io.BytesIO(lines)), purpose="batch"
            )
        )
        batch = await self._call(
            lambda: self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: digest},
            )
        )
        return str(batch.id)

    @property
    def _client(self) -> Any:
        return self._endpoint.client

    async def _call(self, send: Callable[[], Awaitable[T]]) -> T:
        """A request about batches, which itself costs nothing."""
        return await self._endpoint.patiently(
            lambda _: send(), most=Cost(), spent=lambda _: Cost(), model="(batch API)"
        )

    def _row(self, digest: str) -> Any:
        return self._store.execute("SELECT * FROM batches WHERE digest = ?", (digest,)).fetchone()

    def _end(self, row: Any, cost: Cost) -> None:
        most = Cost(row["requests"], row["tokens"], row["money"])
        requests = most.requests if cost.tokens else 0
        self._drop(row["digest"])
        self._budget.settle(Reservation(row["day"], most), Cost(requests, cost.tokens, cost.money))

    def _drop(self, digest: str) -> None:
        self._store.execute("DELETE FROM batches WHERE digest = ?", (digest,))

    def _keys(self) -> set[bytes]:
        return {bytes(row["key"]) for row in self._store.execute("SELECT key FROM batched")}

    def _domains(self, digest: str) -> dict[bytes, str | None]:
        """For which domain each request of a batch was made."""
        rows = self._store.execute("SELECT key, domain FROM batched WHERE digest = ?", (digest,))
        return {bytes(row["key"]): row["domain"] for row in rows}


def forget(store: sqlite3.Connection, domain: str) -> None:
    """Delete what says that a request is under way for a domain, or for nobody knows which."""
    store.execute("DELETE FROM batched WHERE domain = ? OR domain IS NULL", (domain,))
