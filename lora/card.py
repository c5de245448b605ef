"""The skill card and the Arrow file that holds it; torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from lora import layout
from lora.adapter import HEAD, MAX_ALPHA, MAX_RANK, Adapter, FloatArray
from lora.boundary import Boundary
from lora.errors import CardInvalidError, CardNotFiniteError, CardSchemaError
from lora.outline import Place, matrices, outline
from lora.verified import Identity, Verified, identity

__all__ = [
    "DEFAULT_MAX_BYTES",
    "EXTENSION",
    "HEAD",
    "NAME",
    "ROLES",
    "Adapter",
    "BaseModel",
    "LoRACard",
    "LoRAFormat",
]

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
"""The largest card file believed unless the caller says otherwise, in bytes."""

EXTENSION: Final = ".lora.arrow"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ROLES: Final = ("query", "document")

_sound: Final = Verified[str](most=16_384)
"""The digests of files that were read whole and found sound."""

MAX_VERSION: Final = 2**31 - 1
MAX_MODULES: Final = 4096
MAX_DIM: Final = 65536
MAX_PROTOTYPES: Final = 256
MAX_TEXT: Final = 8192
MAX_ENTRIES: Final = 256
MAX_PARENTS: Final = 64
MAX_INT: Final = 2**63 - 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")

Metric = float | int | str | bool | None


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise CardInvalidError(message)


def _is_unicode(text: str) -> bool:
    """Whether it can be told to others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class BaseModel:
    """The model a card was trained on: its name for people, and the SHA-256 of its weights."""

    id: str
    """Hub id, or the name of a folder; at most 256 characters."""

    sha256: str
    """64 hexadecimal digits over the weight file (over a list of files where there are several)."""

    def __post_init__(self) -> None:
        _require(0 < len(self.id) <= 256, f"a base model's id has 1 to 256 characters: {self.id!r}")
        _require(
            _SHA256.fullmatch(self.sha256) is not None,
            f"a base model's sha256 must be 64 hexadecimal digits, not {self.sha256!r}",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRACard:
    """A skill: adapters by target module, and what is known of them.

    Checked at construction: patterns, limits and shapes. That every value is finite is checked when
    a card is encoded or read. Two cards are the same when their `digest` is.

    Raises:
        CardInvalidError: a field breaks its pattern or limit, or contradicts another.
    """

    name: str
    """`[a-z0-9][a-z0-9._-]{0,63}`."""

    version: int = 1
    """1 or above; numbered at publication."""

    rank: int = 8
    """The common rank; `modules` may differ each."""

    alpha: float = 16.0
    """The common alpha; `modules` may differ each."""

    target_modules: tuple[str, ...] = ()
    """The names or suffixes that were asked for; those of `modules` where left out."""

    base_model: BaseModel
    dim: int
    """Width of the pooled embedding."""

    modules: Mapping[str, Adapter]
    """Adapters by the full name of their module; `embedding` is the head."""

    applies_to: tuple[str, ...] = ("query",)
    """`query`, `document` or both."""

    description: str = ""
    prototypes: FloatArray | None = None
    """(k, dim) float32 in the base space: what queries of this skill look like."""

    threshold: float | None = None
    """Least cosine to a prototype, -1 to 1, that routes to the skill; None: named use only."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """What the gate measured; finite numbers, flags and short texts."""

    created: str = field(default_factory=_now)
    """RFC 3339."""

    author: str = ""
    data_digest: str = ""
    """`sha256:…` of the training set, or empty."""

    trainer: str = ""
    """Name and version of what trained it."""

    parents: tuple[str, ...] = ()
    """Digests of the cards it was trained from."""

    extra: Mapping[str, str] = field(default_factory=dict)
    """Free keys and values."""

    digest: str | None = None
    """`sha256:` and 64 digits over the file's bytes; None before it is written."""

    bytes: int | None = None
    """Size of the file; None before it is written."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "modules", MappingProxyType(dict(sorted(self.modules.items()))))
        put(self, "metrics", MappingProxyType(dict(sorted(self.metrics.items()))))
        put(self, "extra", MappingProxyType(dict(sorted(self.extra.items()))))
        put(self, "target_modules", tuple(self.target_modules) or tuple(self.modules))
        put(self, "applies_to", tuple(self.applies_to))
        put(self, "parents", tuple(self.parents))
        self._check_words()
        self._check_numbers()
        self._check_modules()
        if self.prototypes is not None:
            put(self, "prototypes", self._checked_prototypes(self.prototypes))
        Boundary.of(self.extra, self.dim)  # one that cannot be read is refused here

    @property
    def head(self) -> Adapter | None:
        """The adapter on the pooled embedding, if there is one."""
        return self.modules.get(HEAD)

    def let_go(self) -> None:
        """Forget what was unpacked of the file; it is unpacked again when it is needed."""
        for adapter in self.modules.values():
            adapter.let_go()

    @cached_property
    def body(self) -> Mapping[str, Adapter]:
        """The adapters on the encoder's own layers."""
        return MappingProxyType({name: a for name, a in self.modules.items() if name != HEAD})

    @cached_property
    def key(self) -> str:
        """The digest; for a card that was never written, the one its file would have."""
        return self.digest or layout.digest_of_bytes(LoRAFormat.encode(self))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all matrices in a model, float32 whatever they are stored in."""
        return sum(adapter.nbytes for adapter in self.modules.values())

    def astype(self, dtype: str) -> LoRACard:
        """The same skill with its matrices stored as `dtype`: a card of its own, this its parent.

        It is this very card where nothing has to be changed.
        """
        if all(adapter.dtype == dtype for adapter in self.modules.values()):
            return self
        return replace(
            self,
            modules={name: adapter.astype(dtype) for name, adapter in self.modules.items()},
            parents=(self.key, *self.parents)[:MAX_PARENTS],
            digest=None,
            bytes=None,
        )

    def check_finite(self) -> None:
        """Raise `CardNotFiniteError` where a matrix holds NaN or infinity."""
        for name, adapter in self.modules.items():
            adapter.check_finite(name)
        if self.prototypes is not None and not np.all(np.isfinite(self.prototypes)):
            raise CardNotFiniteError("the prototypes hold NaN or infinity")

    def _check_words(self) -> None:
        _require(
            NAME.fullmatch(self.name) is not None,
            f"a card's name must match {NAME.pattern}, not {self.name!r}",
        )
        for label, text in (
            ("description", self.description),
            ("author", self.author),
            ("trainer", self.trainer),
        ):
            _require(len(text) <= MAX_TEXT, f"{label} has more than {MAX_TEXT} characters")
        said = (self.base_model.id, self.description, self.author, self.trainer)
        measured = (value for value in self.metrics.values() if isinstance(value, str))
        _require(
            all(
                map(
                    _is_unicode,
                    (*said, *self.metrics, *measured, *self.extra, *self.extra.values()),
                )
            ),
            "a text of the card cannot be written as UTF-8: it holds half of a surrogate pair",
        )
        _require(
            _TIME.fullmatch(self.created) is not None,
            f"created must be an RFC 3339 time, not {self.created!r}",
        )
        for label, digest in (("data_digest", self.data_digest), ("digest", self.digest or "")):
            _require(
                not digest or _DIGEST.fullmatch(digest) is not None,
                f"{label} must be 'sha256:' and 64 hexadecimal digits, not {digest!r}",
            )
        _require(
            len(self.parents) <= MAX_PARENTS
            and all(_DIGEST.fullmatch(parent) for parent in self.parents),
            f"parents must be at most {MAX_PARENTS} digests, not {self.parents!r}",
        )
        _require(
            bool(self.applies_to)
            and set(self.applies_to) <= set(ROLES)
            and len(set(self.applies_to)) == len(self.applies_to),
            f"applies_to must name roles of {ROLES} once each, not {self.applies_to!r}",
        )
        _require(
            len(self.extra) <= MAX_ENTRIES
            and all(len(key) + len(value) <= MAX_TEXT for key, value in self.extra.items()),
            f"extra may hold at most {MAX_ENTRIES} entries of {MAX_TEXT} characters",
        )

    def _check_numbers(self) -> None:
        _require(
            type(self.version) is int and 1 <= self.version <= MAX_VERSION,
            f"version must be an integer from 1 to {MAX_VERSION}, not {self.version!r}",
        )
        _require(
            type(self.rank) is int and 1 <= self.rank <= MAX_RANK,
            f"rank must be an integer from 1 to {MAX_RANK}, not {self.rank!r}",
        )
        _require(
            math.isfinite(self.alpha) and 0 < self.alpha <= MAX_ALPHA,
            f"alpha must be above 0 and at most {MAX_ALPHA}, not {self.alpha!r}",
        )
        _require(
            type(self.dim) is int and 1 <= self.dim <= MAX_DIM,
            f"dim must be an integer from 1 to {MAX_DIM}, not {self.dim!r}",
        )
        _require(
            self.threshold is None or (math.isfinite(self.threshold) and -1 <= self.threshold <= 1),
            f"threshold must be a cosine from -1 to 1, or None, not {self.threshold!r}",
        )
        _require(len(self.metrics) <= MAX_ENTRIES, f"more than {MAX_ENTRIES} metrics")
        for key, value in dict[str, object](self.metrics).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            _require(
                finite and (value is None or isinstance(value, str | bool | int | float)),
                f"metric {key!r} must be a finite number, a flag or a text, not {value!r}",
            )
            _require(
                not isinstance(value, int) or abs(value) <= MAX_INT,
                f"metric {key!r} is a whole number of more than 64 bits",
            )

    def _check_modules(self) -> None:
        _require(
            0 < len(self.modules) <= MAX_MODULES,
            f"a card needs 1 to {MAX_MODULES} modules, not {len(self.modules)}",
        )
        for name in (*self.modules, *self.target_modules):
            _require(
                _MODULE.fullmatch(name) is not None,
                f"a module's name must match {_MODULE.pattern}, not {name!r}",
            )
        head = self.head
        _require(
            head is None or (head.inputs == self.dim and head.outputs == self.dim),
            f"the head must go from {self.dim} to {self.dim} dimensions",
        )

    def _checked_prototypes(self, prototypes: FloatArray) -> FloatArray:
        rows = np.asarray(prototypes)
        _require(
            rows.dtype == np.float32
            and rows.ndim == 2
            and 1 <= rows.shape[0] <= MAX_PROTOTYPES
            and rows.shape[1] == self.dim,
            f"prototypes must be float32 of 1 to {MAX_PROTOTYPES} rows by {self.dim}, "
            f"not {rows.dtype} {rows.shape}",
        )
        _require(bool(np.all(np.any(rows != 0, axis=1))), "a prototype is the zero vector")
        return rows


class LoRAFormat:
    """Cards as Arrow IPC files: written whole, read by memory map, checked before believed."""

    @staticmethod
    def encode(card: LoRACard) -> bytes:
        """The bytes of the card's file; the same card gives the same bytes.

        Raises:
            CardNotFiniteError: a matrix holds NaN or infinity.
        """
        card.check_finite()
        return layout.encode(_words(card), card.modules, card.prototypes)

    @staticmethod
    def write(card: LoRACard, path: str | Path) -> LoRACard:
        """Write beside `path`, flush to the disk, rename; the same card with its digest."""
        data = LoRAFormat.encode(card)
        layout.write_atomically(Path(path), data)
        return replace(card, digest=layout.digest_of_bytes(data), bytes=len(data))

    @staticmethod
    def read(
        path: str | Path,
        *,
        digest: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        hashed: bool = False,
    ) -> LoRACard:
        """The card in the file, its matrices views of the mapping (read-only, 64-byte aligned).

        The order of the checks: size, digest over the raw bytes, then parsing, exact schema, full
        validation, limits, shapes, finite values. A file that this process has found sound is not
        hashed again, nor its values looked at, nor what it says parsed, until it changes
        (`lora.verified`). It must not be changed while it is mapped.
        `hashed` is for a caller that has itself just seen that the bytes have this `digest`.

        Raises:
            CardNotFoundError, CardTooLargeError, CardDigestError, CardCorruptError,
            CardSchemaError, CardInvalidError, CardNotFiniteError
        """
        path = Path(path)
        before = _identity(path)
        with layout.mapped(path, max_bytes) as buffer:
            state = before if before == _identity(path) else None
            sound = None if state is None else _sound.get(state)
            if sound is None and digest is not None and hashed:
                found = digest
            else:
                found = sound or layout.digest_of_bytes(buffer)
            layout.check_digest(digest, found, str(path))
            known = None if sound is None or state is None else _known.get(state)
            if known is not None:
                return known.mapped(buffer)
            words, places = outline(buffer)
            card = _card(words, *matrices(places, buffer), found, buffer.size)
            if sound is None:
                card.check_finite()
            if state is not None and not (hashed and sound is None):
                _sound.learn(state, found)
                _known.learn(state, _Known.of(card, places))
            return card

    @staticmethod
    def digest_of(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> str:
        """`sha256:` and 64 digits over the file's bytes, which are not parsed."""
        with layout.mapped(Path(path), max_bytes) as buffer:
            return layout.digest_of_bytes(buffer)


class _Known(NamedTuple):
    """A card without its matrices, all of it checked, and where in the file they lie."""

    fields: dict[str, Any]
    places: tuple[Place, ...]

    @classmethod
    def of(cls, card: LoRACard, places: tuple[Place, ...]) -> _Known:
        kept = {each.name for each in fields(card)} - {"modules", "prototypes"}
        said = {name: value for name, value in vars(card).items() if name in kept}
        return cls(said, tuple(sorted(places, key=lambda place: place.module)))

    def mapped(self, buffer: pa.Buffer) -> LoRACard:
        """The card, its matrices views of another mapping of the same file."""
        modules, prototypes = matrices(self.places, buffer)
        card = object.__new__(LoRACard)  # whose checks it has passed
        vars(card).update(self.fields, modules=MappingProxyType(modules), prototypes=prototypes)
        return card


_known: Final = Verified[_Known](most=1024)
"""Of files that are read again and again: some 10 kB each."""


def _identity(path: Path) -> Identity | None:
    try:
        return identity(path)
    except OSError:
        return None  # whoever opens it says why


def _words(card: LoRACard) -> dict[str, object]:
    return {
        "name": card.name,
        "version": card.version,
        "rank": card.rank,
        "alpha": float(card.alpha),
        "target_modules": list(card.target_modules),
        "base_model": {"id": card.base_model.id, "sha256": card.base_model.sha256},
        "dim": card.dim,
        "applies_to": list(card.applies_to),
        "description": card.description,
        "threshold": None if card.threshold is None else float(card.threshold),
        "metrics": dict(card.metrics),
        "created": card.created,
        "author": card.author,
        "data_digest": card.data_digest,
        "trainer": card.trainer,
        "parents": list(card.parents),
        "extra": dict(card.extra),
    }


def _card(
    words: dict[str, Any],
    modules: Mapping[str, Adapter],
    prototypes: FloatArray | None,
    digest: str,
    size: int,
) -> LoRACard:
    def texts(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    base, extra, metrics = words["base_model"], words["extra"], words["metrics"]
    well_typed = (
        all(texts(words[key]) for key in ("target_modules", "applies_to", "parents"))
        and isinstance(base, dict)
        and set(base) == {"id", "sha256"}
        and all(isinstance(value, str) for value in base.values())
        and isinstance(extra, dict)
        and all(isinstance(value, str) for value in extra.values())
        and isinstance(metrics, dict)
        and isinstance(words["alpha"], float)
        and isinstance(words["threshold"], float | None)
    )
    if not well_typed:
        raise CardSchemaError("a metadata value of the card has the wrong type")
    return LoRACard(
        **{key: value for key, value in words.items() if key != "base_model"},
        base_model=BaseModel(base["id"], base["sha256"]),
        modules=modules,
        prototypes=prototypes,
        digest=digest,
        bytes=size,
    )
