"""The training dataset: queries, passages and labels in one content-addressed Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lora.training.errors import DatasetError

__all__ = ["FEEDBACK", "FOLDS", "Label", "TrainingSet", "dataset_digest"]

FOLDS = 5
"""Number of folds; a query group belongs to one of them for ever."""

FEEDBACK = "feedback"
"""Source of what people gave: labels, and the passages they spoke of. The gate judges by them."""

FORMAT = "1"
MAX_BYTES = 4 << 30
_FORMAT_KEY = b"consonance.dataset"
_METADATA_KEY = b"consonance.metadata"

Label = tuple[int, int, float, str]
"""Query index, passage index, value (1 relevant, 0 irrelevant, between: soft), source."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One domain's feedback with the base vectors of everything that it speaks of.

    All arrays are made read-only and contiguous. A contradiction (shapes, ranges, a group in two
    folds, a label that points nowhere, values that are not finite) raises `DatasetError`.
    """

    queries: tuple[str, ...]
    """Texts of the n queries."""
    query_vectors: Floats
    """(n, dim) base vectors of the queries."""
    groups: Ints
    """(n,) id of the near-duplicate group of each query, stable across datasets."""
    folds: npt.NDArray[np.int8]
    """(n,) fold of each query, 0 to 4; one fold per group."""
    weights: Floats
    """(n,) weight of each query in training, 0 or more; the gate ignores it."""
    passages: tuple[str, ...]
    """Texts of the m passages."""
    passage_vectors: Floats
    """(m, dim) base vectors of the passages."""
    label_query: npt.NDArray[np.int32]
    """(l,) query index of each label."""
    label_passage: npt.NDArray[np.int32]
    """(l,) passage index of each label."""
    label_value: Floats
    """(l,) 1 relevant, 0 irrelevant, between: soft."""
    label_source: tuple[str, ...]
    """Source of each label: `feedback`, or who else made it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free strings: domain, base model, what was dropped and why."""
    passage_sources: tuple[str, ...] = ()
    """(m,) source of each passage: `feedback`, or who wrote it to train over; by default all are
    people's. What a person labelled is always people's."""

    def __post_init__(self) -> None:
        for name, dtype, axes in _ARRAYS:
            object.__setattr__(self, name, _array(name, getattr(self, name), dtype, axes))
        for name in ("queries", "passages", "label_source", "passage_sources"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.passage_sources:
            object.__setattr__(self, "passage_sources", (FEEDBACK,) * len(self.passages))
        metadata = {str(key): str(value) for key, value in self.metadata.items()}
        object.__setattr__(self, "metadata", MappingProxyType(metadata))
        self._check()

    @classmethod
    def build(
        cls,
        *,
        queries: Sequence[str],
        query_vectors: npt.ArrayLike,
        groups: npt.ArrayLike,
        folds: npt.ArrayLike,
        passages: Sequence[str],
        passage_vectors: npt.ArrayLike,
        labels: Iterable[Label],
        weights: npt.ArrayLike | None = None,
        metadata: Mapping[str, str] | None = None,
        passage_sources: Sequence[str] = (),
    ) -> TrainingSet:
        """A dataset from a list of labels; weights are 1 where none are given."""
        listed = list(labels)
        return cls(
            queries=tuple(queries),
            query_vectors=np.asarray(query_vectors, np.float32),
            groups=np.asarray(groups, np.int64),
            folds=np.asarray(folds, np.int8),
            weights=np.asarray(np.ones(len(queries)) if weights is None else weights, np.float32),
            passages=tuple(passages),
            passage_vectors=np.asarray(passage_vectors, np.float32),
            label_query=np.asarray([label[0] for label in listed], np.int32),
            label_passage=np.asarray([label[1] for label in listed], np.int32),
            label_value=np.asarray([label[2] for label in listed], np.float32),
            label_source=tuple(label[3] for label in listed),
            metadata=metadata or {},
            passage_sources=tuple(passage_sources),
        )

    @property
    def dim(self) -> int:
        """Width of the base vectors."""
        return int(self.query_vectors.shape[1])

    @property
    def rows(self) -> int:
        """Rows of the file: queries, passages and labels together."""
        return len(self.queries) + len(self.passages) + len(self.label_source)

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """(n,) true for queries with a relevant passage that a person named."""
        mask = np.zeros(len(self.queries), bool)
        mask[self.label_query[self.named & (self.label_value >= 0.5)]] = True
        return mask

    @property
    def named(self) -> npt.NDArray[np.bool_]:
        """(l,) true for labels that a person gave."""
        return np.fromiter((source == FEEDBACK for source in self.label_source), bool)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(m,) true for people's passages, false for those written to train over."""
        return np.fromiter((source == FEEDBACK for source in self.passage_sources), bool)

    def sources(self) -> dict[str, int]:
        """Number of labels per source."""
        counts: dict[str, int] = {}
        for source in self.label_source:
            counts[source] = counts.get(source, 0) + 1
        return counts

    def write(self, folder: str | os.PathLike[str]) -> str:
        """Write `<64 hex>.parquet` into the folder, atomically; return `sha256:<64 hex>`."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(self._table(), sink, compression="zstd", use_dictionary=["kind", "source"])
        raw = sink.getvalue()
        name = hashlib.sha256(raw).hexdigest()
        target = place / f"{name}.parquet"
        if not target.exists():
            handle, beside = tempfile.mkstemp(dir=place, prefix=".writing-", suffix=".parquet")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(raw)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(beside, target)
            except BaseException:
                Path(beside).unlink(missing_ok=True)
                raise
        return f"sha256:{name}"

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        digest: str | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> TrainingSet:
        """Read a dataset; size and digest are checked over the raw bytes before they are parsed.

        Raises `DatasetError` where the file is missing, too large, altered, or not a dataset.
        """
        file = Path(path)
        try:
            size = file.stat().st_size
            if size > max_bytes:
                raise DatasetError(f"{file.name} has {size} bytes, more than {max_bytes} allowed")
            raw = file.read_bytes()
        except OSError as error:
            raise DatasetError(f"cannot read the dataset {file}: {error.strerror}") from error
        if digest is not None and digest != (actual := _digest(raw)):
            raise DatasetError(f"{file.name} should have digest {digest} but has {actual}")
        try:
            table = pq.read_table(pa.BufferReader(raw))
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DatasetError(f"{file.name} is not a Parquet file of ours: {reason}") from error
        return cls._from_table(table, file.name)

    def _table(self) -> pa.Table:
        n, m, labels = len(self.queries), len(self.passages), len(self.label_source)
        vectors = np.concatenate([self.query_vectors, self.passage_vectors])
        listed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        vector = pa.concat_arrays([listed, pa.nulls(labels, listed.type)])

        def spread(values: Any, kind: pa.DataType, before: int, after: int) -> pa.Array:
            middle = pa.array(values, kind)
            return pa.concat_arrays([pa.nulls(before, kind), middle, pa.nulls(after, kind)])

        return pa.table(
            {
                "kind": pa.array(["query"] * n + ["passage"] * m + ["label"] * labels),
                "text": spread(self.queries + self.passages, pa.string(), 0, labels),
                "vector": vector,
                "group": spread(self.groups, pa.int64(), 0, m + labels),
                "fold": spread(self.folds, pa.int8(), 0, m + labels),
                "weight": spread(self.weights, pa.float32(), 0, m + labels),
                "query": spread(self.label_query, pa.int32(), n + m, 0),
                "passage": spread(self.label_passage, pa.int32(), n + m, 0),
                "value": spread(self.label_value, pa.float32(), n + m, 0),
                "source": pa.concat_arrays(
                    [
                        pa.nulls(n, pa.string()),
                        pa.array(
                            [None if s == FEEDBACK else s for s in self.passage_sources],
                            pa.string(),
                        ),
                        pa.array(self.label_source, pa.string()),
                    ]
                ),
            },
            schema=_schema(self.dim, self.metadata),
        )

    @classmethod
    def _from_table(cls, table: pa.Table, name: str) -> TrainingSet:
        written = table.schema.metadata or {}
        if written.get(_FORMAT_KEY) != FORMAT.encode():
            raise DatasetError(f"{name} is not a dataset of format {FORMAT}")
        named = "vector" in table.column_names
        kind: Any = table.schema.field("vector").type if named else None
        if (
            not named
            or not pa.types.is_fixed_size_list(kind)
            or not table.schema.equals(_schema(kind.list_size))
        ):
            raise DatasetError(f"{name} does not have the columns of a dataset")
        try:
            metadata = json.loads(written[_METADATA_KEY])
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{name} has no readable metadata") from error
        kinds = np.asarray(table.column("kind").to_pylist(), dtype=object)
        rows = {key: table.filter(pa.array(kinds == key)) for key in ("query", "passage", "label")}
        for key, columns in _FILLED.items():
            for column in columns:
                if rows[key].column(column).null_count:
                    raise DatasetError(f"{name} has a {key} row without {column}")

        def numbers(key: str, column: str) -> npt.NDArray[Any]:
            return rows[key].column(column).to_numpy()  # type: ignore[no-any-return]

        def matrix(key: str) -> npt.NDArray[Any]:
            flat = rows[key].column("vector").combine_chunks().flatten()
            values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
            return values.reshape(-1, kind.list_size)

        return cls(
            queries=tuple(rows["query"].column("text").to_pylist()),
            query_vectors=matrix("query"),
            groups=numbers("query", "group"),
            folds=numbers("query", "fold"),
            weights=numbers("query", "weight"),
            passages=tuple(rows["passage"].column("text").to_pylist()),
            passage_vectors=matrix("passage"),
            label_query=numbers("label", "query"),
            label_passage=numbers("label", "passage"),
            label_value=numbers("label", "value"),
            label_source=tuple(rows["label"].column("source").to_pylist()),
            metadata=metadata,
            passage_sources=tuple(
                FEEDBACK if source is None else source
                for source in rows["passage"].column("source").to_pylist()
            ),
        )

    def _check(self) -> None:
        n, m, labels = len(self.queries), len(self.passages), len(self.label_source)
        if self.query_vectors.shape[1] != self.passage_vectors.shape[1]:
            raise DatasetError("query vectors and passage vectors differ in width")
        expected = {"query_vectors": n, "groups": n, "folds": n, "weights": n}
        expected |= {"passage_vectors": m, "passage_sources": m}
        expected |= {"label_query": labels, "label_passage": labels, "label_value": labels}
        for name, length in expected.items():
            if len(getattr(self, name)) != length:
                raise DatasetError(
                    f"{name} should have {length} rows, not {len(getattr(self, name))}"
                )
        for name in ("query_vectors", "passage_vectors", "weights", "label_value"):
            if not np.isfinite(getattr(self, name)).all():
                raise DatasetError(f"{name} holds values that are not finite")
        if n and (self.folds.min() < 0 or self.folds.max() >= FOLDS):
            raise DatasetError(f"folds should lie in 0 to {FOLDS - 1}")
        if n and self.weights.min() < 0:
            raise DatasetError("weights should not be negative")
        if labels and (self.label_value.min() < 0 or self.label_value.max() > 1):
            raise DatasetError("label values should lie in 0 to 1")
        for name, count in (("label_query", n), ("label_passage", m)):
            index = getattr(self, name)
            if labels and (index.min() < 0 or index.max() >= count):
                raise DatasetError(f"{name} points outside the {count} rows there are")
        if not self.known[self.label_passage[self.named]].all():
            raise DatasetError("a person's label speaks of a passage that is not people's")
        pairs = np.unique(np.stack([self.groups, self.folds.astype(np.int64)]), axis=1)
        if len(np.unique(pairs[0])) != pairs.shape[1]:
            raise DatasetError("a query group lies in more than one fold")


_ARRAYS: tuple[tuple[str, Any, int], ...] = (
    ("query_vectors", np.float32, 2),
    ("groups", np.int64, 1),
    ("folds", np.int8, 1),
    ("weights", np.float32, 1),
    ("passage_vectors", np.float32, 2),
    ("label_query", np.int32, 1),
    ("label_passage", np.int32, 1),
    ("label_value", np.float32, 1),
)

_FILLED = {
    "query": ("text", "vector", "group", "fold", "weight"),
    "passage": ("text", "vector"),
    "label": ("query", "passage", "value", "source"),
}


def dataset_digest(path: str | os.PathLike[str]) -> str:
    """`sha256:<64 hex>` of a file's bytes; raises `DatasetError` where it cannot be read."""
    try:
        return _digest(Path(path).read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read the dataset {path}: {error.strerror}") from error


def _digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _array(name: str, values: Any, dtype: Any, axes: int) -> npt.NDArray[Any]:
    try:
        made = np.ascontiguousarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{name} is not an array of {np.dtype(dtype).name}") from error
    if made.ndim != axes:
        raise DatasetError(f"{name} should have {axes} axes, not {made.ndim}")
    if made is values:
        made = made.view()
    made.setflags(write=False)
    return made


def _schema(dim: int, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    written = json.dumps(dict(metadata or {}), sort_keys=True, ensure_ascii=False)
    return pa.schema(
        [
            pa.field("kind", pa.string()),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
            pa.field("group", pa.int64()),
            pa.field("fold", pa.int8()),
            pa.field("weight", pa.float32()),
            pa.field("query", pa.int32()),
            pa.field("passage", pa.int32()),
            pa.field("value", pa.float32()),
            pa.field("source", pa.string()),
        ],
        metadata={_FORMAT_KEY: FORMAT.encode(), _METADATA_KEY: written.encode()},
    )
