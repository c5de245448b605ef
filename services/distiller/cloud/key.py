"""The API key: where it is found, and that it is found nowhere else."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from services.distiller.cloud.errors import TeacherSettingsError
from services.runtime.settings import TeacherSettings

__all__ = ["HIDDEN", "OPENAI_KEY", "Secret", "is_loopback", "is_openai", "secret_of"]

OPENAI_KEY = "OPENAI_API_KEY"
"""The variable that OpenAI's own tools read."""

HIDDEN = "[key]"
"""What stands where a key stood."""


class Secret:
    """A key, or none, that shows itself only to who asks for it by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(None)" if self._value is None else f"Secret({HIDDEN})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a key is not written anywhere")

    def reveal(self) -> str | None:
        """The key itself, for the client that sends it."""
        return self._value

    def hide(self, text: str) -> str:
        """`text` without the key: servers quote what they were sent."""
        return text if not self._value else text.replace(self._value, HIDDEN)


def secret_of(settings: TeacherSettings, environ: Mapping[str, str]) -> Secret:
    """The key from the environment, else from the file, else none where the server is here.

    Raises `TeacherSettingsError`: there is none where one is needed or named, or others may read
    its file.
    """
    name = settings.key_env or (OPENAI_KEY if is_openai(settings.base_url) else None)
    value = "" if name is None else environ.get(name, "").strip()
    if not value and settings.key_file is not None:
        value = _read(settings.key_file)
    if value:
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise TeacherSettingsError("the teacher's API key holds characters that no key has.")
        return Secret(value)
    if settings.key_env is not None and settings.key_file is None:
        raise TeacherSettingsError(
            "the environment variable that teacher.key_env names is not set: "
            + _shown(settings.key_env, re.fullmatch(r"[A-Z_][A-Z0-9_]*", settings.key_env))
        )
    if is_loopback(settings.base_url):
        return Secret(None)
    raise TeacherSettingsError(
        f"the teacher at {urlsplit(settings.base_url).hostname} needs an API key: "
        + (f"set the environment variable {name}" if name else "name a variable by teacher.key_env")
        + ", or a file by teacher.key_file."
    )


def _read(name: str) -> str:
    path = Path(name).expanduser()
    shown = _shown(str(path), os.sep in name or path.exists())
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise TeacherSettingsError(
                f"teacher.key_file can be read by others (mode {mode:04o}), chmod 600 it: {shown}"
            )
        value = path.read_text("utf-8").strip()
    except OSError as error:
        # The error itself names the file, and what was mistaken for its name.
        raise TeacherSettingsError(
            f"teacher.key_file cannot be read ({error.strerror}): {shown}"
        ) from None
    except UnicodeDecodeError:
        raise TeacherSettingsError(f"teacher.key_file holds no text: {shown}") from None
    if not value:
        raise TeacherSettingsError(f"teacher.key_file is empty: {shown}")
    return value


def _shown(name: str, is_name: object) -> str:
    """A name that a setting gives, unless it may be the key itself, put where its name belongs."""
    return name if is_name else "not shown, since it looks like no name but like the key"


def is_openai(url: str) -> bool:
    """The server is OpenAI's own."""
    host = urlsplit(url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def is_loopback(url: str) -> bool:
    """The server runs on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
