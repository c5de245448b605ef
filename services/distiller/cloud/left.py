"""What a teacher left behind that is not asked any more: it is forgotten like the rest."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from services.distiller.cloud import answers, batch
from services.distiller.cloud.answers import Answers
from services.runtime.forgetting import scrub
from services.runtime.store import add_columns, open_store, transaction

__all__ = ["FILE", "forget"]

FILE: Final = "teacher.sqlite"


def forget(folder: Path, domain: str) -> None:
    """Erase a domain from the file of a teacher that nobody has open."""
    with closing(open_store(folder / FILE, answers.SCHEMA + batch.SCHEMA)) as store:
        kept = Answers(store)
        add_columns(store, "batched", {"domain": "TEXT"})
        with transaction(store):
            kept.forget(domain)
            batch.forget(store, domain)
        scrub(store)
