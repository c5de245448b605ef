"""The skill card and the Arrow file that holds it; torch-free."""

from __future__ import annotations

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
from lora.adapter import HEAD, Adapter, FloatArray
from lora.boundary import Boundary
from lora.card_checks import (
    MAX_PARENTS,
    SHA256,
    check_fields,
    checked_prototypes,
    require,
)
from lora.errors import CardNotFiniteError, CardSchemaError
from lora.outline import Place, matrices, outline
from lora.verified import Identity, Verified, identity

__all__ = [
    "DEFAULT_MAX_BYTES",
    "EXTENSION",
    "HEAD",
    "Adapter",
    "BaseModel",
    "LoRACard",
    "LoRAFormat",
]

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
"""The largest card file believed unless the caller says otherwise, in bytes."""

EXTENSION: Final = ".lora.arrow"

_sound: Final = Verified[str](most=16_384)
"""The digests of files that were read whole and found sound."""

Metric = float | int | str | bool | None


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
        require(0 < len(self.id) <= 256, f"a base model's id has 1 to 256 characters: {self.id!r}")
        require(
            SHA256.fullmatch(self.sha256) is not None,
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
        check_fields(self)
        if self.prototypes is not None:
            put(self, "prototypes", checked_prototypes(self.prototypes, self.dim))
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
"""Of files that are read again and again: 12 kB each, of a card on query and value."""


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
