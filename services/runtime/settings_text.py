"""Documents made from the settings: the default file in TOML, and the table in Markdown."""

from __future__ import annotations

import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

import msgspec

from services.runtime.settings import Settings
from services.runtime.settings_fields import Field, fields_of

__all__ = ["markdown", "to_toml"]

_INTRODUCTION = """\
# Settings

`python run_all.py --config FILE` reads a TOML file. A key that is absent has its default; an
unknown key, or a value out of range, stops the start with one sentence. `python run_all.py
--print-config` writes a file with every key at its default. Flags of `run_all.py` go before the
file. A change holds from the next start of the fleet on.

This page is made from `services/runtime/settings.py`; renew it by
`python -m services.runtime.settings_text docs/settings.md`.
"""


def to_toml(settings: Settings, *, explain: bool = True) -> str:
    """A settings file that says the same as `settings`, each key with its meaning if wanted."""
    blocks = []
    for section in msgspec.structs.fields(Settings):
        present = getattr(settings, section.name)
        lines = [f"# {_summary(section.type)}"] if explain else []
        lines.append(f"[{section.name}]")
        for field in fields_of(section.type):
            value = getattr(present, field.name)
            if explain:
                unit = f" [{field.unit}]" if field.unit else ""
                lines.append(f"# {field.text}{unit} Accepts {field.accepts}.")
            if value is not None:
                lines.append(f"{field.name} = {_toml(value)}")
            elif explain:
                lines.append(f"# {field.name} =")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def markdown() -> str:
    """The page `docs/settings.md`."""
    blocks = [_INTRODUCTION]
    for section in msgspec.structs.fields(Settings):
        rows = [
            f"## `[{section.name}]`",
            "",
            _summary(section.type),
            "",
            "| key | default | unit | accepts | meaning |",
            "| --- | --- | --- | --- | --- |",
            *(_row(field) for field in fields_of(section.type)),
        ]
        blocks.append("\n".join(rows) + "\n")
    return "\n".join(blocks)


def _row(field: Field) -> str:
    default = "not set" if field.default is None else f"`{_toml(field.default)}`"
    return f"| `{field.name}` | {default} | {field.unit} | {field.accepts} | {field.text} |"


def _summary(section: Any) -> str:
    return (inspect.getdoc(section) or "").splitlines()[0]


def _toml(value: Any) -> str:
    """A scalar as TOML writes it; large whole numbers with separators."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    if isinstance(value, float) and math.isinf(value):
        return f"{value}"
    # A JSON string is a TOML string, but for surrogate pairs and DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), "utf-8")
