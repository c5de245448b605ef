"""Where vectors go: a NumPy file, JSON lines or Parquet, chunk by chunk."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Self

import msgspec

from services.command.errors import Failed, InputRefused
from services.command.files import check_free, whole_file

if TYPE_CHECKING:
    from services.runtime.client import Encoded

__all__ = ["Form", "Sink", "sink_for"]

Form = Literal["npy", "jsonl", "parquet"]

ROW_GROUP: Final = 8192
"""Rows of Parquet that are written together."""


def sink_for(path: Path | None, form: Form | None, *, force: bool) -> Sink:
    """The sink for a file, by its ending or as `form` says; standard output takes JSON lines.

    Raises `InputRefused`.
    """
    if path is None:
        if form not in (None, "jsonl"):
            raise InputRefused(f"standard output takes JSON lines; {form} needs --out FILE")
        return _Lines(None)
    chosen = form or path.suffix.removeprefix(".").lower()
    if chosen not in _KINDS:
        raise InputRefused(
            f"the form of {path} is unknown: end it with .npy, .jsonl or .parquet, or say --form"
        )
    check_free(path, force=force)
    return _KINDS[chosen](path)


class Sink(ABC):
    """`with sink: sink.write(…)`; its file is there once the block has ended well."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stack = ExitStack()
        self._file: BinaryIO = sys.stdout.buffer
        self.rows = 0

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._stack.enter_context(whole_file(self._path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._finish(well=error is None)
        except BaseException as failed:
            self._stack.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def write(self, texts: Sequence[str], found: Encoded) -> None:
        """Append the rows of some texts. Raises `OSError`, and `Failed` where the model changed."""
        self._write(texts, found)
        self.rows += len(texts)

    @abstractmethod
    def _write(self, texts: Sequence[str], found: Encoded) -> None: ...

    @abstractmethod
    def _finish(self, *, well: bool) -> None:
        """Write what is left; where it ended badly, close only what must be closed."""


class _Lines(Sink):
    """A JSON object a line: text, embedding, skills, reason."""

    def _write(self, texts: Sequence[str], found: Encoded) -> None:
        lines = [
            {"text": text, "embedding": vector, "skills": row.skills, "reason": row.reason}
            for text, vector, row in zip(texts, found.vectors.tolist(), found.rows, strict=True)
        ]
        self._file.write(msgspec.json.Encoder().encode_lines(lines))
        if self._path is None:
            self._file.flush()  # whoever reads need not wait for the next chunk

    def _finish(self, *, well: bool) -> None:
        return


class _NumPy(Sink):
    """Rows of little-endian float32; the header is written again when their number is known."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self._dim: int | None = None
        self._start = 0

    def _write(self, texts: Sequence[str], found: Encoded) -> None:
        import numpy as np

        dim = found.vectors.shape[1]
        if self._dim is None:
            self._dim = dim
            self._header(0)
            self._start = self._file.tell()
        _check_dim(dim, self._dim)
        self._file.write(np.ascontiguousarray(found.vectors, "<f4").tobytes())

    def _header(self, rows: int) -> None:
        from numpy.lib import format as npy

        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, self._dim or 0)}
        npy.write_array_header_1_0(self._file, about)

    def _finish(self, *, well: bool) -> None:
        if well and self._dim is not None:
            self._file.seek(0)
            self._header(self.rows)  # NumPy leaves room in it for any number of rows
            if self._file.tell() != self._start:
                raise Failed("this NumPy writes headers that cannot be filled in later")


class _Parquet(Sink):
    """Columns text, embedding (fixed_size_list<float32>), skills, reason."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self._writer: Any = None
        self._batches: list[Any] = []
        self._dim = 0

    def _write(self, texts: Sequence[str], found: Encoded) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, dim = found.vectors.shape
        if self._writer is None:
            self._dim = dim
            self._schema = _schema(dim, found.model)
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        _check_dim(dim, self._dim)
        flat = np.ascontiguousarray(found.vectors, np.float32)
        values = pa.Array.from_buffers(pa.float32(), flat.size, [None, pa.py_buffer(flat)])
        columns = [
            pa.array(texts, pa.string()),
            pa.FixedSizeListArray.from_arrays(values, dim),
            pa.array(
                [[msgspec.structs.asdict(skill) for skill in row.skills] for row in found.rows],
                self._schema.field("skills").type,
            ),
            pa.array([row.reason for row in found.rows], pa.string()),
        ]
        self._batches.append(pa.record_batch(columns, schema=self._schema))
        if sum(len(batch) for batch in self._batches) + rows > ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._batches:
            table = pa.Table.from_batches(self._batches)
            self._writer.write_table(table, row_group_size=len(table))
            self._batches.clear()

    def _finish(self, *, well: bool) -> None:
        if self._writer is None:
            return
        if well:
            self._flush()
            self._writer.close()
            return
        try:
            self._writer.close()  # it would do so by itself later, upon a file that is closed
        except OSError:
            return


def _schema(dim: int, model: str) -> Any:
    import pyarrow as pa

    skill = pa.struct(
        [
            ("name", pa.string()),
            ("version", pa.int64()),
            ("digest", pa.string()),
            ("score", pa.float64()),
        ]
    )
    fields = [
        pa.field("text", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
        pa.field("skills", pa.list_(skill), nullable=False),
        pa.field("reason", pa.string()),
    ]
    return pa.schema(fields, metadata={"consonance.model": model})


def _check_dim(found: int, wanted: int) -> None:
    if found != wanted:
        raise Failed(f"the fleet's vectors had {wanted} dimensions and now have {found}")


_KINDS: Final[dict[str, Callable[[Path], Sink]]] = {
    "npy": _NumPy,
    "jsonl": _Lines,
    "parquet": _Parquet,
}
