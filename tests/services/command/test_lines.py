"""Lines in chunks, whatever the blocks they arrive in."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.command.lines import CHUNK, Raw, chunks_of, opened


class Blocks(Raw):
    """What is read comes as these blocks."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self.name = "blocks"
        self.size = None
        self._blocks = iter(blocks)

    async def read(self) -> bytes:
        return next(self._blocks, b"")


async def read(blocks: Sequence[bytes]) -> list[tuple[int, tuple[str, ...]]]:
    return [(chunk.first, chunk.texts) async for chunk in chunks_of(Blocks(blocks), 10_000)]


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff"), max_size=20)),
    cuts=st.lists(st.integers(0, 200)),
    ended=st.booleans(),
)
async def test_wherever_the_blocks_are_cut_the_lines_are_the_same(
    lines: list[str], cuts: list[int], ended: bool
) -> None:
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    blocks = [data[a:b] for a, b in itertools.pairwise(places) if a < b]

    found = await read(blocks)

    expected = text.split("\n")[:-1] if text.endswith("\n") else (text.split("\n") if text else [])
    assert [line for _, texts in found for line in texts] == expected
    assert all(len(texts) <= CHUNK for _, texts in found)
    first = 1
    for number, texts in found:
        assert number == first
        first += len(texts)


async def test_a_pipe_that_pauses_hands_on_what_has_come() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"one\ntwo\nthr")
        chunks = chunks_of(Raw(reading, "pipe"), 100)
        first = await anext(chunks)
        assert (first.texts, first.paused) == (("one", "two"), True)
        os.write(writing, b"ee\n")
        os.close(writing)
        assert (await anext(chunks)).texts == ("three",)
        assert [chunk async for chunk in chunks] == []
    finally:
        os.close(reading)


async def test_what_never_waits_is_read_as_a_file_is(tmp_path: Path) -> None:
    with opened(Path("/dev/null")) as raw:
        assert [chunk async for chunk in chunks_of(raw, 100)] == []
    (tmp_path / "a").write_text("x\ny")
    with opened(tmp_path / "a") as raw:
        assert raw.size == 3
        (chunk,) = [chunk async for chunk in chunks_of(raw, 100)]
    assert (chunk.texts, chunk.place) == (("x", "y"), "lines 1 to 2")
