"""CloudDistiller: a domain's material put to a language model, within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import structlog

from services.distiller.cloud import answers, batch, budget
from services.distiller.cloud.answers import TOO_LONG, Answers
from services.distiller.cloud.asks import Ask, key_of, plan
from services.distiller.cloud.batch import Batches
from services.distiller.cloud.budget import Budget
from services.distiller.cloud.endpoint import PAUSE, Endpoint
from services.distiller.cloud.errors import (
    MalformedError,
    PartError,
    RefusedError,
    TeacherSettingsError,
    TruncatedError,
    UnavailableError,
)
from services.distiller.cloud.key import is_loopback, secret_of
from services.distiller.cloud.left import FILE
from services.distiller.cloud.order import Order
from services.distiller.teacher import Contribution, Material, Pair
from services.runtime.forgetting import scrub
from services.runtime.settings import TeacherSettings
from services.runtime.store import open_store, transaction

__all__ = ["CloudDistiller"]

EMBEDDED = 512
"""Texts of one request for vectors; servers take up to 2,048."""

EMBEDDED_TOKENS = 300_000
"""Tokens of one request for vectors, a byte taken for one."""

LONGEST = 8000
"""Bytes of a text that is embedded; of longer ones the beginning. Models take 8,192 tokens."""

T = TypeVar("T")
Vector = npt.NDArray[np.float32]


class CloudDistiller:
    """The teacher `openai`.

    Makes `folder/teacher.sqlite`: the budget, the answers of late, the batches under way; never
    the key. Raises `TeacherSettingsError` where the settings do not suffice to ask anybody.
    """

    name = "openai"

    def __init__(
        self,
        settings: TeacherSettings,
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = _checked(settings)
        self._secret = secret_of(settings, os.environ if environ is None else environ)
        self._log: Any = structlog.get_logger()
        if settings.base_url.startswith("http:") and not is_loopback(settings.base_url):
            self._log.warning("the teacher is asked without encryption", host=_host(settings))
        self._settings = settings
        self._clock = clock
        schema = budget.SCHEMA + answers.SCHEMA + batch.SCHEMA
        self._store = open_store(folder / FILE, schema)
        self.budget = Budget(self._store, settings, clock)
        self._answers = Answers(self._store, clock)
        self._endpoint = Endpoint(settings, self._secret, self.budget, clock)
        self._batches = Batches(self._store, self._endpoint, self.budget, self._answers, clock)

    async def teach(self, material: Material) -> Contribution:
        """Ask for everything that the settings ask for; what fails is left out, with a reason."""
        order = Order(material, self._settings)
        asks = plan(order.taken, self._settings)
        try:
            if self._settings.batch_api and not await self._by_batch(asks, order):
                return order.contribution()
            found = await _all(self._ask(ask, order) for ask in asks)
            pairs = [pair for part in found for pair in part]
            vectors = await self._vectors(_texts(order.taken, pairs), order)
        except Exception as error:
            # A full disk, a broken store: the loop goes on without a teacher.
            trace = self._secret.hide("".join(traceback.format_exception(error)))
            self._log.error("asking the teacher failed", trace=trace)
            order.stop(UnavailableError(f"asking the teacher failed: {_name(error)}", self._soon()))
            return order.contribution()
        if order.reason is not None:
            self._log.warning("the teacher gave less than it was asked for", why=order.reason)
        return order.contribution(pairs, vectors, self._space)

    async def forget(self, domain: str) -> None:
        """Erase the answers of a domain; what was sent is the server's to forget."""
        with transaction(self._store):
            self._answers.forget(domain)
            self._batches.forget(domain)
        scrub(self._store)

    async def aclose(self) -> None:
        """Let connections and the store go."""
        await self._endpoint.aclose()
        self._store.close()

    async def _by_batch(self, asks: Iterable[Ask], order: Order) -> bool:
        """Put what is not answered into a batch; False while there is something to wait for."""
        open_ = {
            key: body for key, body in map(self._request, asks) if self._answers.get(key) is None
        }
        try:
            waiting = await self._batches.advance(open_, order.taken.domain)
        except UnavailableError as error:
            order.stop(error)
            return False
        if waiting is not None:
            order.stop(UnavailableError(*waiting))
        return waiting is None

    @property
    def _space(self) -> str:
        return f"{self._settings.embedding_model} at {_host(self._settings)}"

    def _soon(self) -> float:
        return self._clock() + PAUSE

    def _request(self, ask: Ask) -> tuple[bytes, dict[str, Any]]:
        body = ask.body(self._model, self._settings.output_tokens)
        return key_of(self._settings.base_url, "/chat/completions", body), body

    async def _ask(self, ask: Ask, order: Order) -> list[Pair]:
        """The pairs of one request; where it is too much for the model, of its halves."""
        key, body = self._request(ask)
        kept = self._answers.get(key)
        try:
            if kept == TOO_LONG:
                raise TruncatedError("the answer was cut off")
            if kept is not None:
                with contextlib.suppress(MalformedError):  # a batch's answers are as they came
                    return order.read(ask, kept.decode())
            return await self._fresh(ask, key, body, order)
        except UnavailableError as error:
            order.stop(error)
            return []
        except (TruncatedError, RefusedError) as error:
            halves = ask.halves()
            if not halves:
                order.leave_out(error)
            elif isinstance(error, TruncatedError) and kept != TOO_LONG:
                self._answers.put(key, TOO_LONG, order.taken.domain)
        except PartError as error:
            order.leave_out(error)
            return []
        found = [await self._ask(half, order) for half in halves]
        return [pair for part in found for pair in part]

    async def _fresh(
        self, ask: Ask, key: bytes, body: Mapping[str, Any], order: Order
    ) -> list[Pair]:
        """Ask, and once more where the answer is nonsense. Raises `CloudError`."""
        try:
            return await self._once(ask, key, body, order)
        except MalformedError:
            return await self._once(ask, key, body, order)

    async def _once(
        self, ask: Ask, key: bytes, body: Mapping[str, Any], order: Order
    ) -> list[Pair]:
        async with order.slots:
            if order.unavailable is not None:
                return []
            content = await self._endpoint.chat(body)
        pairs = order.read(ask, content)
        self._answers.put(key, content.encode(), order.taken.domain)
        return pairs

    async def _vectors(self, texts: Sequence[str], order: Order) -> dict[str, Vector]:
        """The teacher's own vectors, of all texts or of none: half of them rank nothing."""
        model = self._settings.embedding_model
        if model is None or not texts or order.unavailable is not None:
            return {}
        keys = {text: self._vector_key(model, text) for text in texts}
        kept = {text: self._answers.get(key) for text, key in keys.items()}
        found = {text: np.frombuffer(row, np.float32) for text, row in kept.items() if row}
        try:
            for part in _chunks([text for text in texts if text not in found]):
                rows = await self._endpoint.embed(model, [_shown(text) for text in part])
                fresh = dict(zip(part, rows, strict=True))
                self._answers.put_all(
                    {keys[text]: row.tobytes() for text, row in fresh.items()}, order.taken.domain
                )
                found |= fresh
        except UnavailableError as error:
            if error.again is None:  # chat works: the order is done but for its vectors
                order.note(f"no vectors: {error}")
            else:
                order.stop(error)
            return {}
        except PartError as error:
            order.note(f"no vectors: {error}")
            return {}
        if len({len(row) for row in found.values()}) != 1:
            order.note("no vectors: they are not of one width")
            return {}
        return found

    def _vector_key(self, model: str, text: str) -> bytes:
        body = {"model": model, "input": _shown(text)}
        return key_of(self._settings.base_url, "/embeddings", body)


def _checked(settings: TeacherSettings) -> str:
    """The model's name. Raises `TeacherSettingsError`."""
    if not settings.model:
        raise TeacherSettingsError(
            'distiller.teacher is "openai", but teacher.model does not name the model to ask.'
        )
    parts = urlsplit(settings.base_url)
    # What stands before an @ or behind a ? may be a key, and an address is shown everywhere.
    secretive = parts.username is not None or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or secretive:
        raise TeacherSettingsError(
            "teacher.base_url should be such as https://api.openai.com/v1, without a name, a "
            "password or a query."
        )
    return settings.model


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; where one fails, the others end, too."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


def _name(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


def _host(settings: TeacherSettings) -> str:
    return urlsplit(settings.base_url).hostname or ""


def _texts(material: Material, pairs: Iterable[Pair]) -> list[str]:
    """Everything that vectors are wanted of, each once: what people said, then what was written."""
    texts = [query.text for query in material.queries]
    texts += [text for query in material.queries for text in (*query.relevant, *query.near)]
    texts += material.passages
    texts += [text for pair in pairs for text in (pair.query, pair.passage)]
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _shown(text: str) -> str:
    return text.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")


def _chunks(texts: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = []
    tokens = 0
    for text in texts:
        needs = min(len(text.encode("utf-8", "replace")), LONGEST)
        if not parts or len(parts[-1]) == EMBEDDED or tokens + needs > EMBEDDED_TOKENS:
            parts.append([])
            tokens = 0
        parts[-1].append(text)
        tokens += needs
    return parts
