"""The configuration: TOML files as people write them, and as nobody would."""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any

import msgspec

from bus.settings import BrokerSettings, InvalidSettings
from bus.settings import load_settings as load_bus
from services.errors import SettingsError
from services.runtime.settings import Settings, load_settings
from services.runtime.settings_fields import fields_of
from services.runtime.settings_text import to_toml
from tests.torture.input.cards import folder
from tests.torture.input.target import Target, hold
from tests.torture.input.trees import dented

__all__ = ["TARGET"]

VALUES = (
    *("0", "-1", "1", "1.5", "nan", "inf", "-inf", "1e999", "0x" + "f" * 5000, "9" * 5000),
    *("9223372036854775808", "true", '""', '"auto"', '"x"', '"\\u0000"', '"' + "x" * 3000 + '"'),
    *("[]", "[1]", "[[[]]]", "[" * 3000 + "]" * 3000, "{}", "{a = 1}", "{a.b.c.d = 1}"),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", '"0 0 30 2 *"', '"*/0 * * * *"'),
    *('"0 0 31 2,4 *"', '"59 23 L * 5L"', '"* * * * * *"', '"0 0 1 1 7#9"', '"Europe/Berlin"'),
    *('"../../etc/passwd"', '"/etc/localtime"', '"UTC\\u0000"', '["a:1", "b@c:99999", "[::1]:1"]'),
    *(
        '"""a\n"""',
        "'''\n'''",
        '"ipc:///x"',
        '"tcp://h:1"',
        '"127.0.0.1"',
        "64",
        "4096",
        "16777216",
    ),
)


def _seeds() -> list[bytes]:
    whole = to_toml(Settings(), explain=False)
    sections = re.split(r"^(?=\[)", whole, flags=re.MULTILINE)
    return [part.encode() for part in (whole, *sections) if part.strip()]


def check(data: bytes) -> bool:
    """Load the file as the fleet and as the broker do; what is taken is within its limits."""
    path = folder() / "consonance.toml"
    path.write_bytes(data)
    taken = False
    try:
        bus = load_bus(path)
    except InvalidSettings as error:
        hold(len(str(error)) <= 20_000, "the error repeats a long part of the file")
    else:
        _finite(bus)
        hold(msgspec.convert(msgspec.to_builtins(bus), BrokerSettings) == bus, "out of range")
    try:
        found = load_settings(path)
    except SettingsError as error:
        hold(len(str(error)) <= 20_000, "the error repeats a long part of the file")
    else:
        taken = True
        for section in msgspec.structs.fields(Settings):
            value = getattr(found, section.name)
            _finite(value)
            for field in fields_of(section.type):
                given = msgspec.to_builtins(getattr(value, field.name))
                msgspec.convert(given, field.kind)
        path.write_text(to_toml(found), "utf-8")
        hold(load_settings(path) == found, "printed and read again they are others")
    return taken


def _finite(section: Any) -> None:
    for name, value in msgspec.structs.asdict(section).items():
        if isinstance(value, float):
            hold(not math.isnan(value), f"{name} is not a number")


def _mutate(data: bytes, random: Random) -> bytes:
    if random.random() < 0.1:
        return dented(data, random)
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    key, equals, _ = lines[at].partition(b" = ")
    match random.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(random.randrange(len(lines) + 1), lines[at])
        case 2:
            lines[at] = random.choice(
                [b"[fleet]", b"[bus]", b"[x]", b"[[bus]]", b"[bus.a]", b"bus = 1"]
            )
        case 3 if equals:
            lines[at] = random.choice([key + b"x", b'"' + key + b'"', b"a." + key, b"''"]) + b" = 1"
        case _:
            lines[at] = (key if equals else b"port") + b" = " + random.choice(VALUES).encode()
    return b"\n".join(lines) or b"\n"


TARGET = Target(
    name="config",
    about="the settings files",
    seeds=_seeds,
    mutate=_mutate,
    check=check,
    longest=1 << 14,
)
