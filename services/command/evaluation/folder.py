"""A folder as BEIR lays it out: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

Every wrong line is refused with its file, its number and a sentence. Texts of documents are not
kept: the corpus is read in blocks, each known by the digest of its texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from services.command.errors import InputRefused
from services.command.evaluation.errors import FolderRefused

__all__ = ["BLOCK", "Block", "Collection", "Query", "read_folder", "texts_of"]

BLOCK: Final = 1024
"""Documents of a block: what is embedded and kept as one file."""

LONGEST: Final = 65_536
"""Bytes of the longest text that a fleet takes unless told otherwise; no model reads so far."""

_HEADER: Final = ("query-id", "corpus-id", "score")
_NUMBER: Final = re.compile(r"[+-]?\d{1,9}")

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """A query that people judged documents for."""

    id: str
    text: str
    relevance: dict[int, int]
    """By number of the document; those of 0 and below were judged and found not relevant."""
    own: int
    """The document of the query's own id, which is no answer to it, or -1."""


@dataclass(frozen=True)
class Block:
    """A stretch of the corpus."""

    start: int
    """Number of its first document."""
    count: int
    offset: int
    """Where its first line begins in the file, bytes."""
    digest: str
    """SHA-256 over its texts."""


@dataclass
class Collection:
    """What was read: ids and digests of the documents, and the queries of one split."""

    folder: Path
    split: str
    ids: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    shortened: int = 0
    """Documents and queries that were cut at `LONGEST` bytes."""
    unanswerable: int = 0
    """Queries of the split without any relevant document; they are left out."""


class _Document(msgspec.Struct):
    id: str | int = msgspec.field(name="_id")
    text: str
    title: str | None = None


class _Question(msgspec.Struct):
    id: str | int = msgspec.field(name="_id")
    text: str


def read_folder(folder: Path, split: str = "test", limit: int | None = None) -> Collection:
    """Read and check everything; `limit`: only the first so many queries of the split.

    Raises `FolderRefused`, `InputRefused` (there is no such split).
    """
    if not folder.is_dir():
        raise InputRefused(f"{folder} is no folder")
    judgements = _judgements_file(folder, split)
    found = Collection(folder, split)
    numbers = _corpus(folder / "corpus.jsonl", found)
    texts = _questions(folder / "queries.jsonl", found)
    judged = _judgements(judgements, texts, numbers)
    for id, text in texts.items():
        if id not in judged:
            continue
        if not any(value > 0 for value in judged[id].values()):
            found.unanswerable += 1
            continue
        own = numbers.get(id, -1)
        # As BEIR does; but where people judged it, the two ids are the same by chance.
        found.queries.append(Query(id, text, judged[id], -1 if own in judged[id] else own))
        if len(found.queries) == limit:
            break
    if not found.queries:
        raise FolderRefused(f"{judgements}: it names no relevant document for any query")
    return found


def texts_of(collection: Collection, block: Block) -> list[str]:
    """The texts of a block, read again; raises `FolderRefused` if they are others now."""
    path = collection.folder / "corpus.jsonl"
    texts: list[str] = []
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(block.offset)
        while len(texts) < block.count and (line := file.readline()):
            if not line.strip():
                continue
            text, _ = _shortened(_text(_decoded(path, 0, line, _Document)))
            _feed(digest, text)
            texts.append(text)
    if digest.hexdigest() != block.digest:
        raise FolderRefused(f"{path} was changed while it was read: start again")
    return texts


def _corpus(path: Path, found: Collection) -> dict[str, int]:
    """Fills ids and blocks; returns the number of each document by its id."""
    numbers: dict[str, int] = {}
    offset, begun, count, digest = 0, 0, 0, hashlib.sha256()
    for number, place, line in _lines(path):
        document = _decoded(path, number, line, _Document)
        id = _id(path, number, document.id)
        if numbers.setdefault(id, len(found.ids)) != len(found.ids):
            raise FolderRefused(
                f"{path}:{number}: the id {id!r} is there a second time: each document needs one "
                "of its own"
            )
        if not count:
            begun, offset, digest = len(found.ids), place, hashlib.sha256()
        text, cut = _shortened(_text(document))
        found.shortened += cut
        _feed(digest, text, path, number)
        found.ids.append(id)
        count += 1
        if count == BLOCK:
            found.blocks.append(Block(begun, count, offset, digest.hexdigest()))
            count = 0
    if count:
        found.blocks.append(Block(begun, count, offset, digest.hexdigest()))
    if not found.ids:
        raise FolderRefused(f"{path} holds no document")
    return numbers


def _questions(path: Path, found: Collection) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, _, line in _lines(path):
        question = _decoded(path, number, line, _Question)
        id = _id(path, number, question.id)
        if id in texts:
            raise FolderRefused(
                f"{path}:{number}: the id {id!r} is there a second time: each query needs one of "
                "its own"
            )
        if not question.text.strip():
            raise FolderRefused(f"{path}:{number}: the query {id!r} has no text")
        texts[id], cut = _shortened(question.text)
        found.shortened += cut
        _feed(hashlib.sha256(), texts[id], path, number)
    if not texts:
        raise FolderRefused(f"{path} holds no query")
    return texts


def _judgements_file(folder: Path, split: str) -> Path:
    """`qrels/SPLIT.tsv`, or the one `qrels.tsv` of a folder without splits."""
    path, flat = folder / "qrels" / f"{split}.tsv", folder / "qrels.tsv"
    if path.is_file():
        return path
    if flat.is_file() and split == "test":
        return flat
    others = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
    there = f"; there are the splits {', '.join(others)}" if others else ""
    raise InputRefused(f"{path} does not exist{there}")


def _judgements(
    path: Path, queries: dict[str, str], documents: dict[str, int]
) -> dict[str, dict[int, int]]:
    judged: dict[str, dict[int, int]] = {}
    for number, _, line in _lines(path):
        try:
            words = tuple(word.strip() for word in line.decode().rstrip("\r\n").split("\t"))
        except UnicodeDecodeError as error:
            raise FolderRefused(f"{path}:{number}: it is not UTF-8") from error
        if number == 1 and words == _HEADER:
            continue
        if len(words) != len(_HEADER):
            raise FolderRefused(
                f"{path}:{number}: a line has three columns with tabs between them, {_HEADER[0]}, "
                f"{_HEADER[1]} and {_HEADER[2]}; this one has {len(words)}"
            )
        query, document, score = words
        if not _NUMBER.fullmatch(score):
            raise FolderRefused(f"{path}:{number}: the relevance is {score!r}, not a whole number")
        if query not in queries:
            raise FolderRefused(f"{path}:{number}: there is no query {query!r} in queries.jsonl")
        if document not in documents:
            raise FolderRefused(
                f"{path}:{number}: there is no document {document!r} in corpus.jsonl"
            )
        before = judged.setdefault(query, {}).setdefault(documents[document], int(score))
        if before != int(score):
            raise FolderRefused(
                f"{path}:{number}: the document {document!r} was judged {before} for the query "
                f"{query!r} above, and {score} here"
            )
    return judged


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, line) of all lines that are not blank."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                whole = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if whole.strip():
                    yield number, offset + len(line) - len(whole), whole
                offset += len(line)
    except OSError as error:
        raise FolderRefused(f"{path} cannot be read: {error.strerror}") from error


def _decoded(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        needs = "an object with _id and text" if kind is _Question else "one with _id, text, title"
        raise FolderRefused(f"{path}:{number}: a line is {needs}: {error}") from error


def _id(path: Path, number: int, given: str | int) -> str:
    id = str(given)
    if not id or id != id.strip() or "\t" in id:
        raise FolderRefused(
            f"{path}:{number}: the id {id!r} is empty, or has a tab in it or a space at its ends"
        )
    return id


def _text(document: _Document) -> str:
    return f"{document.title or ''} {document.text}".strip()  # as BEIR joins them


def _shortened(text: str) -> tuple[str, bool]:
    if len(text) * 4 <= LONGEST:
        return text, False
    whole = text.encode("utf-8", "surrogatepass")
    if len(whole) <= LONGEST:
        return text, False
    return whole[:LONGEST].decode("utf-8", "ignore"), True


def _feed(digest: hashlib._Hash, text: str, path: Path | None = None, number: int = 0) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise FolderRefused(
            f"{path}:{number}: the text holds half of a surrogate pair, which is no Unicode"
        ) from error
    digest.update(len(raw).to_bytes(8, "little") + raw)
