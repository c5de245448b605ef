"""TOML from people: what no reader of ours can hold is refused as what is no TOML at all."""

from __future__ import annotations

import tomllib
from typing import Any

__all__ = ["parse_toml"]


def parse_toml(raw: bytes) -> dict[str, Any]:
    """The tables of a TOML file; raises `ValueError` with what is wrong in it."""
    try:
        tables = tomllib.loads(raw.decode())
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    values: list[Any] = [tables]
    while values:
        value = values.pop()
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError("a whole number has more than 64 bits")
        values += value.values() if isinstance(value, dict) else ()
        values += value if isinstance(value, list) else ()
    return tables
