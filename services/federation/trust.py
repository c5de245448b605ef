"""The trust list: whose cards this node accepts. A text file like authorized_keys.

A line is a public key and, for people, a name: `ed25519:… laptop`. `#` begins a comment.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.federation import keyfiles
from services.federation.errors import TrustFileError
from services.federation.identity import fingerprint_of, is_public

__all__ = ["TrustList", "Trusted", "add", "remove"]

_BOM: Final = b"\xef\xbb\xbf"
_COMPLAINTS: Final = 20  # told of one file; a file of another kind has thousands
_COARSE: Final = 2 * 10**9  # ns; the coarsest clock of a file system that is in use
_NAME_LIMIT: Final = 100

_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Trusted:
    """One author whose cards are accepted."""

    public: str
    name: str = ""
    """What people call it; may be empty."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.public)

    def __str__(self) -> str:
        return f"{self.public} {self.name}".rstrip()


class TrustList:
    """Answers from the file as it is now: an edit counts from the next question on.

    `own` is always trusted. What is wrong with the file goes to `report`, each sentence once for
    as long as it holds. A missing file is an empty list; of one that cannot be read nothing is
    trusted. Several threads may ask.
    """

    def __init__(
        self, path: Path, own: str | None, *, report: Callable[[str], None] = lambda _: None
    ) -> None:
        self.path = path
        self.own = own
        self._report = report
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._entries: dict[str, Trusted] = {}
        self._told: set[str] = set()

    def accepts(self, public: str | None) -> bool:
        """Whether cards by the author of this key are accepted."""
        if public is None:
            return False
        return public == self.own or public in self._current()

    def entries(self) -> tuple[Trusted, ...]:
        """The file's entries in its order; the node's own key is not among them."""
        return tuple(self._current().values())

    def _current(self) -> dict[str, Trusted]:
        with self._lock:
            problems: list[str] = []
            try:
                found = os.stat(self.path)
                stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            except FileNotFoundError:
                self._stamp, self._entries = None, {}
            except OSError as e:
                self._stamp, self._entries = None, {}
                problems.append(
                    f"{self.path} cannot be read: {e.strerror}; nobody in it is trusted"
                )
            else:
                if stamp == self._stamp:
                    return self._entries
                self._entries, problems = self._read()
                # A change within one tick of the file system's clock leaves the same stamp.
                changed = max(found.st_mtime_ns, found.st_ctime_ns)
                fresh = time.time_ns() - changed < _COARSE
                self._stamp = None if fresh else stamp
            for problem in problems:
                if problem not in self._told:
                    self._report(problem)
            self._told = set(problems)
            return self._entries

    def _read(self) -> tuple[dict[str, Trusted], list[str]]:
        try:
            data = keyfiles.read(self.path, TrustFileError)
        except TrustFileError as e:
            return {}, [f"{e}; nobody in it is trusted"]
        entries: dict[str, Trusted] = {}
        problems: list[str] = []
        for number, line in enumerate(_lines(data), 1):
            found = _parsed(line)
            if isinstance(found, str):
                # The line itself stays untold: somebody may have pasted a private key.
                problems.append(f"{self.path}, line {number}, is skipped: {found}")
            elif found is not None:
                entries.setdefault(found.public, found)
        if (rest := len(problems) - _COMPLAINTS) > 0:
            problems[_COMPLAINTS:] = [f"{self.path}: {rest} more lines are skipped"]
        return entries, problems


def add(path: Path, public: str, name: str = "") -> bool:
    """Trust a key under a name; False where the file says so already.

    A key that is there is given the name, where one is said. Raises `TrustFileError`: no public
    key, an impossible name, one that another key has, or a file that cannot be changed.
    """
    if not is_public(public):
        raise TrustFileError("that is no public key: `ed25519:` and 43 characters of base64url")
    name = _checked(name)
    with _edited(path, make=True) as lines:
        known = [one for one in map(_parsed, lines) if isinstance(one, Trusted)]
        holder = next((one for one in known if name == one.name and one.public != public), None)
        if name and holder is not None:
            raise TrustFileError(
                f"the name {name!r} is that of {holder.fingerprint}: remove it first, "
                "or take another name"
            )
        present = next((one for one in known if one.public == public), None)
        if present is not None and (not name or name == present.name):
            return False
        line = str(Trusted(public, name)).encode()
        if present is None:
            lines.append(line)
        else:
            lines[:] = [line if _is(old, public) else old for old in lines]
    return True


def remove(path: Path, who: str) -> tuple[Trusted, ...]:
    """Trust a public key, a fingerprint or a name no longer; returns what was taken out.

    A key or fingerprint that is not there is none the worse. Raises `TrustFileError`: a name that
    nobody has, or that several keys have, or a file that cannot be changed.
    """
    who = " ".join(who.split())
    with _edited(path) as lines:
        known = [one for one in map(_parsed, lines) if isinstance(one, Trusted)]
        found = tuple(dict.fromkeys(one for one in known if _means(who, one)))
        keys = dict.fromkeys(one.public for one in found)
        if not keys and not is_public(who) and not _is_fingerprint(who):
            raise TrustFileError(f"nobody in {path} has the name or key {who!r}")
        if len(keys) > 1:
            these = ", ".join(map(fingerprint_of, keys))
            raise TrustFileError(f"several keys have the name {who!r}: say which of {these}")
        lines[:] = [line for line in lines if not any(_is(line, public) for public in keys)]
    return found


def _means(who: str, one: Trusted) -> bool:
    return bool(who) and who in (one.public, one.name, one.fingerprint)


def _is_fingerprint(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def _checked(name: str) -> str:
    """A name fit for a line; raises `TrustFileError`."""
    if not all(letter.isprintable() for letter in name):
        raise TrustFileError("a name is one line of letters, digits and signs")
    name = " ".join(name.split())
    if len(name) > _NAME_LIMIT:
        raise TrustFileError(f"a name has at most {_NAME_LIMIT} characters")
    if _is_fingerprint(name) or name.startswith("ed25519:"):
        raise TrustFileError("a name must not look like a key or a fingerprint")
    return name


def _parsed(line: bytes) -> Trusted | str | None:
    """What a line says: an entry, nothing, or what is wrong with it."""
    if not line.strip() or line.lstrip().startswith(b"#"):
        return None
    try:
        key, *rest = line.decode().split(maxsplit=1)
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except ValueError:
        return None
    if not is_public(key):
        return "it does not begin with a public key"
    words = " ".join(rest[0].split()) if rest else ""
    return Trusted(key, "".join(letter if letter.isprintable() else "?" for letter in words))


def _is(line: bytes, public: str) -> bool:
    found = _parsed(line)
    return isinstance(found, Trusted) and found.public == public


def _lines(data: bytes | None) -> list[bytes]:
    lines = (data or b"").removeprefix(_BOM).split(b"\n")
    return lines if lines[-1] else lines[:-1]


@contextlib.contextmanager
def _edited(path: Path, *, make: bool = False) -> Iterator[list[bytes]]:
    """The file's lines, written again where they were changed; one editor at a time."""
    target = Path(os.path.realpath(path))  # a link stays one
    try:
        if make:
            keyfiles.make_folder(target.parent)
        with keyfiles.locked(target.parent):
            data = keyfiles.read(target, TrustFileError)
            lines = _lines(data)
            before = list(lines)
            yield lines
            if lines != before:
                mode = 0o600 if data is None else stat.S_IMODE(target.stat().st_mode)
                keyfiles.replace(target, _joined(lines), mode)
    except OSError as e:
        raise TrustFileError(f"{path} cannot be changed: {e.strerror}") from e


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
