"""The router's memory of base vectors."""

import numpy as np

from services.router.base_vectors import BaseVectors


def test_texts_are_known_by_role_and_the_least_used_are_forgotten() -> None:
    memory = BaseVectors(2)
    memory.put("query", "a", np.ones(3, np.float32), "encoder-1")
    memory.put("query", "b", np.zeros(3, np.float32), "encoder-2")
    assert memory.get("document", "a") is None
    held = memory.get("query", "a")
    assert held is not None
    assert held.worker == "encoder-1"

    memory.put("query", "c", np.ones(3, np.float32), "encoder-1")

    assert memory.missing("query", ("a", "b", "c", "b")) == ("b",)
    assert len(memory) == 2


def test_a_vector_is_a_copy() -> None:
    memory = BaseVectors(2)
    vector = np.ones(3, np.float32)
    memory.put("query", "a", vector, "encoder-1")
    vector[:] = 7
    held = memory.get("query", "a")
    assert held is not None
    assert held.vector.tolist() == [1, 1, 1]


def test_what_each_worker_saves_is_added_up() -> None:
    memory = BaseVectors(10)
    for text, worker in (("a", "encoder-1"), ("b", "encoder-1"), ("c", "encoder-2")):
        memory.put("query", text, np.ones(3, np.float32), worker)
    saved = memory.saved("query", [("a", 5), ("b", 7), ("c", 11), ("d", 13)])
    assert saved == {"encoder-1": 12, "encoder-2": 11}


def test_none_are_kept_where_none_may_be() -> None:
    memory = BaseVectors(0)
    memory.put("query", "a", np.ones(3, np.float32), "encoder-1")
    assert memory.get("query", "a") is None
