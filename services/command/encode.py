"""`consonance encode`: vectors of lines, in bounded memory, into a file that is whole or absent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, OR_STDIN, UNSAID, group, note, print_json, run, source_of
from services.command.models import Model, model_of
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from services.command.lines import Chunk
    from services.command.progress import Tell
    from services.command.sinks import Sink
    from services.runtime.client import Encoded, FleetClient

__all__ = ["Summary", "app", "encode_lines"]

IN_FLIGHT = 4
"""Chunks asked for at a time."""

_EXAMPLES = """
Examples:

    consonance encode questions.txt --out questions.npy
        a row a line; each is bent by the skill that fits it, or by none

    consonance encode passages.txt --role document --out passages.parquet
        for a vector database: columns text, embedding, skills, reason

    tail -f queries.log | consonance encode --model banking
        JSON lines on standard output, as they come

    consonance encode a.txt --model banking@3+slang --out a.jsonl --json
        two skills stacked; the summary as JSON

--model is auto, base, or a skill as NAME, NAME@3, a digest, 12 of its digits
or PEER/NAME; up to three joined by +. A file appears at once and whole: who
interrupts finds nothing half-written.
"""

app = group("encode", "Embed the lines of a file or of standard input.", _EXAMPLES)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was encoded."""

    texts: int
    dim: int
    model: str
    """The embedding model of the fleet; empty where there was no text."""
    skills: dict[str, int]
    """Rows by the cards that made them, as `name@version`."""
    base: int
    """Rows that no card made."""
    tokens: int
    seconds: float
    out: str | None


@app.default
def _encode(
    file: Annotated[Path | None, OR_STDIN] = None,
    /,
    *,
    out: Annotated[Path | None, UNSAID] = None,
    model: str = "auto",
    role: Literal["query", "document"] = "query",
    form: Annotated[Literal["npy", "jsonl", "parquet"] | None, UNSAID] = None,
    force: Annotated[bool, FLAG] = False,
    timeout: float = 60.0,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Embed the lines of a file or of standard input, a row a line; empty lines count.

    Parameters
    ----------
    file
        The texts, one a line, UTF-8. Default, and -: standard input
    out
        The vectors: .npy, .jsonl or .parquet. Default: JSON lines on standard output
    model
        Who makes them: auto, base, or skills
    role
        What the lines are; stored passages are documents
    form
        The form of the file, whatever its name ends with
    force
        Replace the file where it exists
    timeout
        Seconds for the fleet to answer a request of 64 lines
    json
        Write the summary as JSON; with vectors on standard output there is none
    """
    from services.command.sinks import sink_for

    wanted = model_of(model)
    source = source_of(file)
    if not 0.001 <= timeout <= 86_400:
        raise InputRefused(f"--timeout is from 0.001 to 86400 seconds, not {timeout:g}")
    sink = sink_for(out, form, force=force)
    if source is None and sys.stdin.isatty():
        note("reading standard input; Ctrl-D ends it")
    work = _work(source, sink, wanted, role, at, round(timeout * 1000))
    summary = msgspec.structs.replace(run(work), out=None if out is None else str(out))
    if out is not None and json:
        print_json(summary)
    elif out is not None or sys.stderr.isatty():
        note(_told(summary))
    return DONE


async def _work(
    source: Path | None,
    sink: Sink,
    model: Model,
    role: Literal["query", "document"],
    at: Place,
    deadline_ms: int,
) -> Summary:
    from services.command.lines import chunks_of, opened
    from services.command.progress import counting
    from services.runtime.client import FleetClient

    with opened(source) as raw:
        longest = at.settings.router.max_text_bytes
        async with connected(at) as bus:
            client = FleetClient(bus, deadline_ms=deadline_ms)
            with sink, counting("texts", raw.size) as tell:
                chunks = chunks_of(raw, longest)
                return await encode_lines(client, chunks, sink, model, role, tell)


async def encode_lines(
    client: FleetClient,
    chunks: AsyncIterator[Chunk],
    sink: Sink,
    model: Model,
    role: Literal["query", "document"],
    tell: Tell | None = None,
) -> Summary:
    """Encode chunk after chunk, `IN_FLIGHT` at a time, and hand them to the sink in order.

    Raises `EncodeFailedError`, with the lines at fault, and what source and sink raise;
    `InputRefused` where there is no line at all.
    """
    start = time.monotonic()
    count = base = tokens = dim = 0
    skills: dict[str, int] = {}
    name = ""
    waiting: deque[tuple[Chunk, asyncio.Task[Encoded]]] = deque()

    async def one(chunk: Chunk) -> Encoded:
        from services.errors import EncodeFailedError

        try:
            return await client.encode(
                chunk.texts, role=role, route=model.route, skills=model.skills
            )
        except EncodeFailedError as error:
            raise EncodeFailedError(
                error.code, f"{chunk.place}: {error}", error.retry_after_ms
            ) from error

    async def settle() -> None:
        nonlocal count, base, tokens, dim, name
        chunk, task = waiting.popleft()
        found = await task
        await asyncio.to_thread(sink.write, chunk.texts, found)
        count += len(chunk.texts)
        tokens += found.tokens
        dim, name = found.vectors.shape[1], found.model
        for row in found.rows:
            base += not row.skills
            for skill in row.skills:
                key = f"{skill.name}@{skill.version}"
                skills[key] = skills.get(key, 0) + 1
        if tell is not None:
            tell(len(chunk.texts), chunk.bytes)

    try:
        async for chunk in chunks:
            waiting.append((chunk, asyncio.create_task(one(chunk))))
            while waiting and (len(waiting) >= IN_FLIGHT or chunk.paused):
                await settle()
        while waiting:
            await settle()
    finally:
        left = [task for _, task in waiting]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if not count:
        raise InputRefused("there is no line to encode")
    return Summary(
        texts=count,
        dim=dim,
        model=name,
        skills=dict(sorted(skills.items())),
        base=base,
        tokens=tokens,
        seconds=round(time.monotonic() - start, 3),
        out=None,
    )


def _told(summary: Summary) -> str:
    by = ", ".join(f"{count:,} by {name}" for name, count in summary.skills.items())
    made = f"{by + ', ' if by else ''}{summary.base:,} by the base model"
    where = f" in {summary.out}" if summary.out else ""
    return (
        f"{summary.texts:,} texts, {summary.dim} dimensions{where} "
        f"({made}; {summary.seconds:.1f} s)"
    )
