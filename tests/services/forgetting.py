"""Orders to forget a domain, the words that follow, and looking for what must not be left."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from schemas import DomainForget, DomainForgotten, Event

__all__ = ["holding", "order", "word"]


def order(domain: str, name: str = "order") -> Event[DomainForget]:
    """Somebody asks that a domain be forgotten."""
    return Event(data=DomainForget(domain=domain), source="/client/1", id=name)


def word(domain: str, service: str, name: str = "word") -> Event[DomainForgotten]:
    """A service says that it has forgotten a domain."""
    data = DomainForgotten(domain=domain, service=service)
    return Event(data=data, source=f"/{service}/1", id=name)


def holding(folder: Path, texts: Iterable[str]) -> list[tuple[str, str]]:
    """The files below a folder in whose bytes one of these texts stands, and which."""
    wanted = [(text, text.encode()) for text in texts]
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        found += [
            (file.relative_to(folder).as_posix(), text) for text, raw in wanted if raw in content
        ]
    return found
