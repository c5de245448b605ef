"""A server that speaks the OpenAI API: bounded, patient, within the budget."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt
import openai

from services.distiller.cloud.budget import Budget, Cost
from services.distiller.cloud.dialect import Dialect
from services.distiller.cloud.errors import (
    CloudError,
    MalformedError,
    RefusedError,
    TruncatedError,
    UnavailableError,
)
from services.distiller.cloud.failures import Failure, failure_of
from services.distiller.cloud.key import Secret, is_openai
from services.runtime.settings import TeacherSettings

__all__ = ["PAUSE", "Completion", "Endpoint", "content_of"]

T = TypeVar("T")
Vector = npt.NDArray[np.float32]

FIRST_WAIT = 0.5
"""Seconds before the first further attempt; doubles with each."""

LONGEST_WAIT = 30.0
"""Seconds; a server that asks for more is not waited for, the batch is."""

PAUSE = 60.0
"""Seconds, at least, after which a server that could not be asked may be asked again."""

OVERHEAD = 64
"""Tokens that a server adds to what it is sent."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class Completion(msgspec.Struct, frozen=True):
    """An answer of `/chat/completions`; only what is read here."""

    choices: tuple[_Choice, ...]
    usage: Usage | None = None


class _Embedding(msgspec.Struct, frozen=True):
    index: int
    embedding: str | list[float]


class _Embeddings(msgspec.Struct, frozen=True):
    data: list[_Embedding]
    usage: Usage | None = None


def content_of(found: Completion) -> str:
    """The text of an answer. Raises `TruncatedError`, `RefusedError`, `MalformedError`."""
    if not found.choices:
        raise MalformedError("the answer is empty")
    choice = found.choices[0]
    if choice.finish_reason == "length":
        raise TruncatedError("the answer was cut off")
    if choice.message.refusal or choice.finish_reason == "content_filter":
        raise RefusedError("the model refused to answer")
    if not choice.message.content:
        raise MalformedError("the answer is empty")
    return choice.message.content


class Endpoint:
    """One server with one model, and perhaps one for embeddings.

    So many requests as the settings allow are under way at once, whoever asks.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        secret: Secret,
        budget: Budget,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._budget = budget
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.concurrency)
        openais = is_openai(settings.base_url)
        self.dialect = Dialect(limit="max_completion_tokens" if openais else "max_tokens")
        self.client = openai.AsyncOpenAI(
            # The library insists on some key; a server on this machine needs none.
            api_key=secret.reveal() or "none",
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,  # every attempt goes through the budget
        )
        if not openais:  # the library reads them from the environment, for whatever server
            self.client.organization = self.client.project = None

    async def aclose(self) -> None:
        """Let the connections go."""
        await self.client.close()

    def most(self, body: Mapping[str, Any]) -> Cost:
        """The most that a request to `/chat/completions` can cost: no token is below a byte."""
        sent = len(msgspec.json.encode(body)) + OVERHEAD
        return self._budget.cost(sent, int(body["max_completion_tokens"]))

    def spent(self, body: Mapping[str, Any], found: Completion) -> Cost:
        """What an answered request cost; where the server does not count, bytes are tokens."""
        if found.usage is not None:
            return self._budget.cost(found.usage.prompt_tokens, found.usage.completion_tokens)
        written = sum(len((it.message.content or "").encode()) for it in found.choices)
        return self._budget.cost(len(msgspec.json.encode(body)) + OVERHEAD, written)

    async def chat(self, body: Mapping[str, Any]) -> str:
        """The text that the model answers.

        Raises `UnavailableError` and `PartError`.
        """
        create = cast(Any, self.client.chat.completions.with_raw_response.create)

        async def send(dialect: Dialect) -> Completion:
            return _read((await create(**dialect.chat(body))).content, Completion)

        return content_of(
            await self.patiently(
                send,
                most=self.most(body),
                spent=lambda found: self.spent(body, found),
                model=str(body["model"]),
            )
        )

    async def embed(self, model: str, texts: Sequence[str]) -> Vector:
        """Vectors (n, dim), finite, in the order of the texts.

        Raises `UnavailableError` and `PartError`.
        """
        create = cast(Any, self.client.embeddings.with_raw_response.create)
        most = self._budget.cost(sum(len(text.encode()) + 8 for text in texts), 0)

        async def send(dialect: Dialect) -> _Embeddings:
            body = dialect.embeddings({"model": model, "input": list(texts)})
            return _read((await create(**body)).content, _Embeddings)

        def spent(found: _Embeddings) -> Cost:
            return most if found.usage is None else self._budget.cost(found.usage.prompt_tokens, 0)

        found = await self.patiently(send, most=most, spent=spent, model=model)
        return _matrix(found, len(texts))

    async def patiently(
        self,
        send: Callable[[Dialect], Awaitable[T]],
        *,
        most: Cost,
        spent: Callable[[T], Cost],
        model: str,
    ) -> T:
        """What `send` returns, tried again where that may help, each attempt within the budget.

        Raises `UnavailableError` and `PartError`.
        """
        tried = 0
        while True:
            dialect = self.dialect
            try:
                return await self._once(send, dialect, most, spent, model)
            except _Failed as failed:
                failure = failed.failure
            if self._reworded(dialect, failure):
                continue
            wait = self._wait(failure, tried)
            if wait is None:
                raise self._final(failure)
            tried += 1
            await asyncio.sleep(wait)

    async def _once(
        self,
        send: Callable[[Dialect], Awaitable[T]],
        dialect: Dialect,
        most: Cost,
        spent: Callable[[T], Cost],
        model: str,
    ) -> T:
        """One attempt. What it cost is unknown, and so the most, unless the server answers."""
        async with self._slots:
            reservation = self._budget.reserve(most)
            try:
                async with asyncio.timeout(self._settings.timeout):
                    found = await send(dialect)
            except (openai.OpenAIError, TimeoutError) as error:
                failure = failure_of(error, model, self._settings.timeout, self._secret)
                if not failure.reached:
                    self._budget.settle(reservation, Cost())
                elif failure.answered:
                    self._budget.settle(reservation, Cost(most.requests))
                # What the library says may quote the key: it stays out of tracebacks.
                raise _Failed(failure) from None
            self._budget.settle(reservation, spent(found))
            return found

    def _reworded(self, dialect: Dialect, failure: Failure) -> bool:
        """The server did not understand the words of `dialect`, and there are others to try."""
        better = dialect.after(failure.said) if failure.said else None
        if better is None:
            return False
        if self.dialect == dialect:  # else another request has found out already
            self.dialect = better
        return True

    def _wait(self, failure: Failure, tried: int) -> float | None:
        """Seconds before the next attempt; None: there is none."""
        asked = failure.wait or 0.0
        if not failure.passing or tried >= self._settings.retries or asked > LONGEST_WAIT:
            return None
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0**tried) * random.uniform(0.5, 1.0)
        return asked + backoff

    def _final(self, failure: Failure) -> CloudError:
        if isinstance(failure.error, UnavailableError) and (failure.passing or failure.wait):
            failure.error.again = self._clock() + max(PAUSE, failure.wait or 0.0)
        return failure.error


class _Failed(Exception):
    """One attempt failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except ValueError as error:  # msgspec's errors are such, too
        raise MalformedError(f"the server does not speak the API: {error}") from None


def _matrix(found: _Embeddings, count: int) -> Vector:
    """Rows by index. Raises `MalformedError`: they are not `count` finite rows of one width."""
    rows: list[Vector | None] = [None] * count
    for entry in found.data:
        if not 0 <= entry.index < count:
            raise MalformedError("the teacher's vectors are not those that were asked for")
        rows[entry.index] = _vector(entry.embedding)
    whole = [row for row in rows if row is not None]
    if len(whole) != count or len({len(row) for row in whole}) != 1 or not len(whole[0]):
        raise MalformedError("the teacher's vectors are too few, or not of one width")
    matrix = np.stack(whole)
    if not np.isfinite(matrix).all():
        raise MalformedError("the teacher's vectors are not finite")
    return matrix


def _vector(found: str | list[float]) -> Vector:
    if not isinstance(found, str):
        return np.asarray(found, np.float32)
    try:
        return np.frombuffer(base64.b64decode(found, validate=True), "<f4").astype(np.float32)
    except ValueError:
        raise MalformedError("the teacher's vectors are no base64 of float32") from None
