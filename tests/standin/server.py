"""A server that speaks the OpenAI API on a loopback port, and does what its script says.

    with Standin(answer=Honest(questions)) as server:
        server.script(faults.status(429, retry_after="1"))
        ...  # ask at server.url

It is as strict as the real one where that is known to refuse requests: schemas, sizes, keys.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standin.faults import Fault
from tests.standin.strict import complaint

__all__ = ["DIM", "Standin", "embed"]

DIM = 32
Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Embed = Callable[[str], npt.NDArray[np.float32]]


def embed(text: str) -> npt.NDArray[np.float32]:
    """A bag of words, each word a random direction (DIM,)."""
    total = np.full(DIM, 1e-3, np.float32)
    for word in text.lower().split():
        total += _direction(word)
    return (total / np.linalg.norm(total)).astype(np.float32)


@functools.lru_cache(4096)
def _direction(word: str) -> npt.NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


@dataclass
class Batch:
    """A batch as the server keeps it."""

    id: str
    file: str
    metadata: dict[str, str]
    status: str = "in_progress"
    output: str | None = None


@dataclass
class Standin:
    """The server; a context manager that runs it in a thread."""

    answer: Answer
    embed: Embed = embed
    key: str | None = None
    """The only key that is let in; None: any, or none."""
    models: Sequence[str] = ("teacher", "embedder")
    offers_batches: bool = True
    takes_batches: bool = True
    """False: it refuses to make any."""
    always: Fault | None = None
    """What every request meets once the script is done."""
    counts: Counter[str] = field(default_factory=Counter)
    """Requests seen, by path, and chat requests by task (`task:questions`)."""
    documents: list[dict[str, Any]] = field(default_factory=list)
    """The prompt documents seen, in order."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The JSON bodies seen, in order."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of the same requests."""
    at_once: int = 0
    """The most requests that were under way at one time."""
    batches: dict[str, Batch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._script: deque[Fault] = deque()
        self._files: dict[str, bytes] = {}
        self._now = 0
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/files", self._upload, methods=["POST"]),
                Route("/v1/files/{id}/content", self._content),
                Route("/v1/batches", self._create_batch, methods=["POST"]),
                Route("/v1/batches", self._list_batches),
                Route("/v1/batches/{id}", self._batch),
            ]
        )
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self) -> Standin:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the stand-in did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def reset(self, answer: Answer, **options: Any) -> None:
        """As a new server would be; starting one takes longer than most tests."""
        fresh = {
            one.name: one.default_factory() if one.default is MISSING else one.default
            for one in fields(self)
            if one.name != "answer"
        }
        for name, value in {**fresh, "answer": answer, **options}.items():
            setattr(self, name, value)
        self._script.clear()
        self._files.clear()

    def script(self, *faults: Fault) -> None:
        """The next requests, one each, meet these."""
        self._script.extend(faults)

    def finish(self) -> None:
        """All batches under way are done now."""
        for batch in self.batches.values():
            if batch.status == "in_progress":
                lines = [self._line(json.loads(it)) for it in self._files[batch.file].splitlines()]
                batch.output = f"out-{batch.id}"
                self._files[batch.output] = "\n".join(map(json.dumps, lines)).encode()
                batch.status = "completed"

    async def _chat(self, request: Request) -> Response:
        body = await request.json()

        async def honest() -> Response:
            return self._completed(body)

        return await self._guarded(request, honest, body)

    async def _embeddings(self, request: Request) -> Response:
        body = await request.json()

        async def honest() -> Response:
            return self._embedded(body)

        return await self._guarded(request, honest, body)

    async def _guarded(
        self, request: Request, honest: Callable[[], Any], body: dict[str, Any]
    ) -> Response:
        """Count, let in whoever has the key, then do as the script says."""
        self.counts[request.url.path] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            given = request.headers.get("authorization", "")
            return _error(401, f"Incorrect API key provided: {given}", "invalid_api_key")
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        try:
            fault = self._script.popleft() if self._script else self.always
            return await honest() if fault is None else await fault(request, honest)
        finally:
            self._now -= 1

    def _completed(self, body: dict[str, Any]) -> Response:
        refused = self._refused(body) or complaint(body)
        if refused is not None:
            return refused if isinstance(refused, Response) else _error(400, refused)
        document = json.loads(body["messages"][-1]["content"])
        self.documents.append(document)
        self.counts[f"task:{document['task']}"] += 1
        return JSONResponse(_completion(body, self.answer(document)))

    def _embedded(self, body: dict[str, Any]) -> Response:
        refused = self._refused(body)
        if refused is not None:
            return refused
        texts = body["input"]
        if len(texts) > 2048 or any(not text for text in texts):
            return _error(400, "input cannot be empty or longer than 2048")
        if sum(len(text) // 4 for text in texts) > 300_000:
            return _error(400, "at most 300000 tokens a request")
        data = []
        for index, text in enumerate(texts):
            row: Any = self.embed(text).astype("<f4")
            coded = body.get("encoding_format") == "base64"
            row = base64.b64encode(row.tobytes()).decode() if coded else row.tolist()
            data.append({"object": "embedding", "index": index, "embedding": row})
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        data.reverse()  # rows have an index; their order is no promise
        return JSONResponse({"object": "list", "data": data, "model": "e", "usage": usage})

    def _refused(self, body: Mapping[str, Any]) -> Response | None:
        if body["model"] in self.models:
            return None
        return _error(404, f"The model `{body['model']}` does not exist", "model_not_found")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _upload(self, request: Request) -> Response:
        self.counts[request.url.path] += 1
        if not self.offers_batches:
            return _error(404, "Not Found")
        mark = b"--" + request.headers["content-type"].partition("boundary=")[2].encode()
        for part in (await request.body()).split(mark):
            head, _, data = part.partition(b"\r\n\r\n")
            if b"filename=" in head:
                name = f"file-{len(self._files)}"
                self._files[name] = data.removesuffix(b"\r\n")
                return JSONResponse({"id": name, "object": "file", "purpose": "batch"})
        return _error(400, "no file")

    async def _content(self, request: Request) -> Response:
        return Response(self._files[request.path_params["id"]])

    async def _create_batch(self, request: Request) -> Response:
        self.counts[request.url.path] += 1
        if not self.takes_batches:
            return _error(400, "this account may not make batches")
        body = await request.json()
        batch = Batch(
            f"batch-{len(self.batches)}", body["input_file_id"], body.get("metadata") or {}
        )
        self.batches[batch.id] = batch
        return JSONResponse(_shown(batch))

    async def _list_batches(self, request: Request) -> Response:
        data = [_shown(batch) for batch in self.batches.values()]
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def _batch(self, request: Request) -> Response:
        batch = self.batches.get(request.path_params["id"])
        return _error(404, "no such batch") if batch is None else JSONResponse(_shown(batch))

    def _line(self, line: dict[str, Any]) -> dict[str, Any]:
        answer = self._completed(line["body"])
        response = {"status_code": answer.status_code, "body": json.loads(bytes(answer.body))}
        return {"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}


def _completion(body: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(answer)
    sent, received = len(json.dumps(body["messages"])) // 4, len(text) // 4
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": sent,
            "completion_tokens": received,
            "total_tokens": sent + received,
        },
    }


def _shown(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "created_at": 0,
        "input_file_id": batch.file,
        "output_file_id": batch.output,
        "status": batch.status,
        "metadata": batch.metadata,
    }


def _error(code: int, message: str, name: str | None = None) -> Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": name}
    return JSONResponse({"error": body}, code)
