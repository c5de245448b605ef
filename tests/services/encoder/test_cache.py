"""What an encoder remembers."""

import numpy as np

from schemas import EncodeFinished, Event
from services.encoder.cache import RecentAnswers, VectorCache


def answer(size: int) -> tuple[Event[EncodeFinished], ...]:
    data = EncodeFinished(request_id="1", worker="encoder-1")
    return (Event(data=data, source="/encoder/1", to="router-1", attachments=(b"x" * size,)),)


def test_a_vector_is_known_by_its_role_and_text_and_cannot_be_changed() -> None:
    cache = VectorCache(10)
    vector = np.ones(3, np.float32)
    cache.put("query", "a", vector, tokens=4)
    vector[:] = 7
    known = cache.get("query", "a")
    assert known is not None
    assert known.vector.tolist() == [1, 1, 1]
    assert known.tokens == 4
    assert not known.vector.flags.writeable
    assert cache.get("document", "a") is None
    assert cache.hits == 1


def test_the_least_recently_used_is_forgotten() -> None:
    cache = VectorCache(2)
    for text in ("a", "b"):
        cache.put("query", text, np.ones(3, np.float32), tokens=1)
    cache.get("query", "a")
    cache.put("query", "c", np.ones(3, np.float32), tokens=1)
    assert ("query", "b") not in cache
    assert ("query", "a") in cache
    assert len(cache) == 2


def test_without_entries_nothing_is_kept() -> None:
    cache = VectorCache(0)
    cache.put("query", "a", np.ones(3, np.float32), tokens=1)
    assert len(cache) == 0


def test_an_answer_is_kept_for_its_time() -> None:
    recent: RecentAnswers[str] = RecentAnswers(seconds=10, max_bytes=100)
    recent.keep("a", answer(1), now=0.0)
    assert recent.get("a", now=10.0) is not None
    assert recent.get("a", now=10.1) is None
    assert len(recent) == 0


def test_beyond_the_bytes_the_oldest_answers_go() -> None:
    recent: RecentAnswers[str] = RecentAnswers(seconds=10, max_bytes=100)
    for key in "abc":
        recent.keep(key, answer(40), now=0.0)
    assert recent.get("a", now=0.0) is None
    assert recent.get("b", now=0.0) is not None
    recent.keep("c", answer(60), now=0.0)
    assert recent.get("b", now=0.0) is not None, "the same answer again is counted once"
