"""The HTTP API on a real socket: asked what its own document allows, and what it does not.

Behind it stands somebody who plays the fleet. Raw bytes that are hardly HTTP go in beside.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from services.api.app import OPERATIONS
from services.api.openapi import document
from tests.services.api.kit import card, opened
from tests.torture.input.target import Broken, hold, silence
from tests.torture.input.trees import dented

__all__ = ["asked", "knocked", "served"]

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
PATIENCE = 20.0
"""Seconds that an answer may take."""


@contextmanager
def served() -> Iterator[str]:
    """The address of an API whose fleet is played, in a thread of its own."""
    address: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve(folder: Path) -> None:
        async with opened(folder, max_inputs=200) as door:
            door.player.cards = [card("banking"), card("banking", 2), card("legal")]
            address.append(door.url)
            ready.set()
            while not done.is_set():  # a fleet of which nothing is heard would be taken for gone
                await door.player.beat()
                await asyncio.to_thread(done.wait, 1.0)

    with TemporaryDirectory(prefix="torture-") as folder, silence():
        thread = threading.Thread(target=lambda: asyncio.run(serve(Path(folder))), daemon=True)
        thread.start()
        try:
            hold(ready.wait(60), "the API did not start")
            yield address[0]
        finally:
            done.set()
            thread.join(30)


def asked(
    url: str,
    examples: int,
    seed: int | None,
    until: float = float("inf"),
    only: Collection[str] = (),
) -> tuple[int, list[str]]:
    """Ask every operation so many times what its document allows, and what it does not.

    How often it was asked, and what schemathesis found. Without a seed always the same. Ends early
    at `until` (of `time.monotonic`). `only` some operations where any are named.
    """
    schema = schemathesis.openapi.from_dict(document(OPERATIONS))
    lasting = {one.name for one in OPERATIONS if one.lasting}  # they have no end to wait for
    count, broken = 0, []
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            name = operation.definition.raw["operationId"]
            if name in lasting or (only and name not in only):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                calls, words = _asked(operation, mode, session, url, examples, seed, until)
                count += calls
                broken += [f"{operation.label}, {mode.value}: {words}"] if words else []
    return count, broken


def _asked(
    operation: Any,
    mode: GenerationMode,
    session: requests.Session,
    url: str,
    examples: int,
    seed: int | None,
    until: float,
) -> tuple[int, str]:
    count = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal count
        if time.monotonic() > until:
            return
        count += 1
        response = case.call(base_url=url, session=session, timeout=PATIENCE)
        hold(response.status_code != 500, f"500: {case.as_curl_command()}"[:800])
        case.validate_response(response, checks=CHECKS)

    try:
        (ask if seed is None else hypothesis.seed(seed)(ask))()
    except (hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
        return count, ""  # nothing of that kind can be made for it
    except FailureGroup as group:  # what schemathesis found, and a command that shows it
        return count, " ".join(f"{group} {group.exceptions[0]}".split())[:1000]
    except Broken as error:
        return count, str(error)
    except requests.RequestException as error:
        return count, f"no answer: {error}"
    return count, ""


REQUESTS = (
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 31\r\n\r\n{"input": "word", "model": "a"}',
    b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /v1/events?types=x&after=1 HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: x\r\n\r\n",
    b"GET /v1/skills/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\r\n\r\n",
    b"PUT / HTTP/0.9\r\n" + b"X: " + b"y" * 3000 + b"\r\n\r\n",
)


def knocked(url: str, times: int, random: Random, until: float = float("inf")) -> int:
    """Send bytes that are nearly requests; the API still answers after them."""
    host, _, port = url.removeprefix("http://").partition(":")
    count = 0
    while count < times and time.monotonic() < until:
        raw = random.choice(REQUESTS)
        for _ in range(random.choice([1, 2, 5])):
            raw = dented(raw, random)
        with socket.create_connection((host, int(port)), PATIENCE) as door, suppress(OSError):
            door.settimeout(0.2)
            door.sendall(raw)
            if random.random() < 0.5:
                door.shutdown(socket.SHUT_WR)
            answer = door.recv(1 << 16)
            status = answer.split(b" ", 2)[1:2]
            if status and status[0] == b"500":
                raise Broken(f"a request was answered with 500: {raw!r}")
        count += 1
    hold(requests.get(f"{url}/healthz", timeout=PATIENCE).ok, "the API does not answer any more")
    return count
