"""What every store of base vectors has: keys of texts, and the model that the vectors are of."""

from __future__ import annotations

import hashlib
import sqlite3

from services.runtime.store import transaction

__all__ = ["MODEL_SCHEMA", "key_of", "serve_model"]

MODEL_SCHEMA = "CREATE TABLE IF NOT EXISTS model (sha256 TEXT NOT NULL);"
"""Part of the store's schema, beside a table `vectors`."""


def key_of(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def serve_model(store: sqlite3.Connection, sha256: str) -> None:
    """Vectors are of the model with these weights: those of another are forgotten."""
    row = store.execute("SELECT sha256 FROM model").fetchone()
    if row is not None and row["sha256"] == sha256:
        return
    with transaction(store):
        store.execute("DELETE FROM model")
        store.execute("DELETE FROM vectors")
        store.execute("INSERT INTO model VALUES (?)", (sha256,))
