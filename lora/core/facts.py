"""What sentence-transformers made of a model's files, kept: with it a model starts without it.

Importing sentence-transformers and transformers takes four seconds and 300 MB in each process, for
what comes down to a few settings, a tokenizer and how the modules are put together. They are noted
once, together with vectors that the model's own modules gave for some texts. A process that goes by
the notes must give these very vectors, at every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from lora.core.families import Shape

__all__ = ["CARRIED", "Facts", "facts_key", "read_facts", "write_facts"]

CARRIED: Final = Path(__file__).with_name("notes")
"""The notes on the default model: `python -m lora.core` takes them anew."""

_FORMAT: Final = 1
_SETTINGS: Final = frozenset({".json", ".txt", ".model"})

log = logging.getLogger(__name__)


class Facts(msgspec.Struct, frozen=True):
    """Notes on one model."""

    shape: Shape
    prefix: str
    """What the names of the transformer's weights start with in the file."""
    pooling: str
    normalised: bool
    dim: int
    max_tokens: int
    prompts: dict[str, str]
    """By role; empty where there is none."""
    pad_token: str
    probes: tuple[str, ...]
    vectors: dict[str, bytes]
    """By role: (probes, dim) little-endian float32, from the model's own modules."""
    tokenizer: str | None = None
    """As JSON, where it is not the folder's `tokenizer.json` to the letter."""


def facts_key(folder: Path, weights_sha256: str, dtype: str) -> str:
    """32 hexadecimal digits that stand for all that `folder` says of a model, and its numbers."""
    found = hashlib.sha256(f"{_FORMAT} {weights_sha256} {dtype}\n".encode())
    for file in sorted(folder.rglob("*")):
        if file.suffix in _SETTINGS and file.is_file():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{digest}  {file.relative_to(folder).as_posix()}\n".encode())
    return found.hexdigest()[:32]


def read_facts(places: tuple[Path, ...], key: str) -> Facts | None:
    """The notes of this key in the first place that has them; None where none can be read."""
    for place in places:
        file = place / f"{key}.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Facts)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError) as e:
            log.warning("notes on the model were passed over: %s: %s", file, e)
    return None


def write_facts(place: Path, key: str, facts: Facts) -> None:
    """Keep notes; a disk that cannot take them costs the next start its speed, no more."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
            file.write(msgspec.json.encode(facts))
        try:
            os.replace(file.name, place / f"{key}.json")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
    except OSError as e:
        log.warning("notes on the model could not be kept in %s: %s", place, e.strerror)
