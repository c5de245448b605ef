"""A teacher and the server that it asks, for tests."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from services.distiller.cloud import CloudDistiller
from services.distiller.teacher import Asked, Material
from services.runtime.settings import TeacherSettings
from tests.standin.honest import Honest
from tests.standin.server import Standin

KEY = "sk-very-secret-0123456789"

QUESTIONS = {
    f"{bird} food": [f"what does the {bird} eat {when}" for when in ("now", "today", "at night")]
    for bird in ("heron", "wren", "crane", "stork")
}
PASSAGES = tuple(QUESTIONS)

MATERIAL = Material(
    domain="birds",
    queries=(
        Asked("heron meals", ("heron food",), ("wren food",), near=("crane food", "stork food")),
        Asked("dinner of a wren", ("wren food",), near=("heron food",)),
        Asked("do cranes fast", novel=True),
    ),
    passages=PASSAGES,
)


def honest() -> Honest:
    """Knows the questions, and what each query is about."""
    return Honest(
        QUESTIONS,
        {
            "heron meals": "heron food",
            "dinner of a wren": "wren food",
            "do cranes fast": "crane food",
        },
    )


@functools.cache
def running() -> Standin:
    """The one server that all tests share, one after another; `conftest` stops it."""
    return Standin(honest()).__enter__()


@contextmanager
def serving(answer: Callable[..., Any] | None = None, **options: Any) -> Iterator[Standin]:
    """A stand-in as if it were new."""
    server = running()
    server.reset(answer or honest(), **options)
    yield server


def settings(server: Standin | str, **changes: Any) -> TeacherSettings:
    """Settings that ask a server (or a URL), with short waits."""
    url = server if isinstance(server, str) else server.url
    values: dict[str, Any] = {"model": "teacher", "timeout": 10.0, "retries": 2}
    values["questions_per_passage"] = 4
    return TeacherSettings(base_url=url, **{**values, **changes})


@asynccontextmanager
async def teaching(
    server: Standin | str, folder: Path, *, key: str | None = None, **changes: Any
) -> AsyncIterator[CloudDistiller]:
    """A teacher that is let go at the end. `clock` and settings by name."""
    clock = {"clock": changes.pop("clock")} if "clock" in changes else {}
    environ = {} if key is None else {"TEACHER_KEY": key}
    changes = {"key_env": None if key is None else "TEACHER_KEY", **changes}
    teacher = CloudDistiller(settings(server, **changes), folder, environ=environ, **clock)
    try:
        yield teacher
    finally:
        await teacher.aclose()
