"""What must hold of a card's fields: patterns, limits, and what one says of another."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from lora.adapter import MAX_ALPHA, MAX_RANK, FloatArray
from lora.errors import CardInvalidError

if TYPE_CHECKING:
    from lora.card import LoRACard

__all__ = [
    "MAX_MODULES",
    "MAX_PARENTS",
    "MAX_PROTOTYPES",
    "NAME",
    "ROLES",
    "SHA256",
    "check_fields",
    "checked_prototypes",
    "require",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ROLES: Final = ("query", "document")

MAX_VERSION: Final = 2**31 - 1
MAX_MODULES: Final = 4096
MAX_DIM: Final = 65536
MAX_PROTOTYPES: Final = 256
MAX_TEXT: Final = 8192
MAX_ENTRIES: Final = 256
MAX_PARENTS: Final = 64
MAX_INT: Final = 2**63 - 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def require(holds: bool, message: str) -> None:
    """Raise `CardInvalidError` with this message unless it holds."""
    if not holds:
        raise CardInvalidError(message)


def _is_unicode(text: str) -> bool:
    """Whether it can be told to others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_fields(card: LoRACard) -> None:
    """Raise `CardInvalidError` for a field that breaks its pattern or limit, or contradicts
    another; the prototypes apart."""
    _check_words(card)
    _check_numbers(card)
    _check_modules(card)


def _check_words(card: LoRACard) -> None:
    require(
        NAME.fullmatch(card.name) is not None,
        f"a card's name must match {NAME.pattern}, not {card.name!r}",
    )
    for label, text in (
        ("description", card.description),
        ("author", card.author),
        ("trainer", card.trainer),
    ):
        require(len(text) <= MAX_TEXT, f"{label} has more than {MAX_TEXT} characters")
    said = (card.base_model.id, card.description, card.author, card.trainer)
    measured = (value for value in card.metrics.values() if isinstance(value, str))
    require(
        all(
            map(
                _is_unicode,
                (*said, *card.metrics, *measured, *card.extra, *card.extra.values()),
            )
        ),
        "a text of the card cannot be written as UTF-8: it holds half of a surrogate pair",
    )
    require(
        _TIME.fullmatch(card.created) is not None,
        f"created must be an RFC 3339 time, not {card.created!r}",
    )
    for label, digest in (("data_digest", card.data_digest), ("digest", card.digest or "")):
        require(
            not digest or _DIGEST.fullmatch(digest) is not None,
            f"{label} must be 'sha256:' and 64 hexadecimal digits, not {digest!r}",
        )
    require(
        len(card.parents) <= MAX_PARENTS
        and all(_DIGEST.fullmatch(parent) for parent in card.parents),
        f"parents must be at most {MAX_PARENTS} digests, not {card.parents!r}",
    )
    require(
        bool(card.applies_to)
        and set(card.applies_to) <= set(ROLES)
        and len(set(card.applies_to)) == len(card.applies_to),
        f"applies_to must name roles of {ROLES} once each, not {card.applies_to!r}",
    )
    require(
        len(card.extra) <= MAX_ENTRIES
        and all(len(key) + len(value) <= MAX_TEXT for key, value in card.extra.items()),
        f"extra may hold at most {MAX_ENTRIES} entries of {MAX_TEXT} characters",
    )


def _check_numbers(card: LoRACard) -> None:
    require(
        type(card.version) is int and 1 <= card.version <= MAX_VERSION,
        f"version must be an integer from 1 to {MAX_VERSION}, not {card.version!r}",
    )
    require(
        type(card.rank) is int and 1 <= card.rank <= MAX_RANK,
        f"rank must be an integer from 1 to {MAX_RANK}, not {card.rank!r}",
    )
    require(
        math.isfinite(card.alpha) and 0 < card.alpha <= MAX_ALPHA,
        f"alpha must be above 0 and at most {MAX_ALPHA}, not {card.alpha!r}",
    )
    require(
        type(card.dim) is int and 1 <= card.dim <= MAX_DIM,
        f"dim must be an integer from 1 to {MAX_DIM}, not {card.dim!r}",
    )
    require(
        card.threshold is None or (math.isfinite(card.threshold) and -1 <= card.threshold <= 1),
        f"threshold must be a cosine from -1 to 1, or None, not {card.threshold!r}",
    )
    require(len(card.metrics) <= MAX_ENTRIES, f"more than {MAX_ENTRIES} metrics")
    for key, value in dict[str, object](card.metrics).items():
        finite = not isinstance(value, float) or math.isfinite(value)
        require(
            finite and (value is None or isinstance(value, str | bool | int | float)),
            f"metric {key!r} must be a finite number, a flag or a text, not {value!r}",
        )
        require(
            not isinstance(value, int) or abs(value) <= MAX_INT,
            f"metric {key!r} is a whole number of more than 64 bits",
        )


def _check_modules(card: LoRACard) -> None:
    require(
        0 < len(card.modules) <= MAX_MODULES,
        f"a card needs 1 to {MAX_MODULES} modules, not {len(card.modules)}",
    )
    for name in (*card.modules, *card.target_modules):
        require(
            _MODULE.fullmatch(name) is not None,
            f"a module's name must match {_MODULE.pattern}, not {name!r}",
        )
    head = card.head
    require(
        head is None or (head.inputs == card.dim and head.outputs == card.dim),
        f"the head must go from {card.dim} to {card.dim} dimensions",
    )


def checked_prototypes(prototypes: FloatArray, dim: int) -> FloatArray:
    """As rows (k, dim); raises `CardInvalidError`."""
    rows = np.asarray(prototypes)
    require(
        rows.dtype == np.float32
        and rows.ndim == 2
        and 1 <= rows.shape[0] <= MAX_PROTOTYPES
        and rows.shape[1] == dim,
        f"prototypes must be float32 of 1 to {MAX_PROTOTYPES} rows by {dim}, "
        f"not {rows.dtype} {rows.shape}",
    )
    require(bool(np.all(np.any(rows != 0, axis=1))), "a prototype is the zero vector")
    return rows
