"""Base vectors are kept under their texts, for one model at a time."""

from pathlib import Path

from services.runtime.store import open_store
from services.runtime.vector_store import MODEL_SCHEMA, key_of, serve_model

SCHEMA = MODEL_SCHEMA + "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB);"


def test_a_text_has_one_short_key_whatever_it_holds() -> None:
    texts = ["", "a", "b", "a" * 10_000, "\ud800"]
    keys = [key_of(text) for text in texts]
    assert len(set(keys)) == len(texts)
    assert {len(key) for key in keys} == {16}
    assert keys == [key_of(text) for text in texts]


def test_vectors_of_another_model_are_forgotten_and_of_the_same_one_kept(tmp_path: Path) -> None:
    def kept(sha256: str) -> int:
        store = open_store(tmp_path / "vectors.sqlite", SCHEMA)
        try:
            serve_model(store, sha256)
            left = int(store.execute("SELECT count(*) FROM vectors").fetchone()[0])
            store.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (key_of("a"), b"1"))
            return left
        finally:
            store.close()

    assert [kept("one"), kept("one"), kept("two"), kept("two")] == [0, 1, 0, 1]
