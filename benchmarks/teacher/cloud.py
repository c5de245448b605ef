"""A server that stands in for the cloud, and knows what a good model would know."""

from __future__ import annotations

from benchmarks.learning.data import DataSet, Queries
from tests.standin.honest import Honest
from tests.standin.server import Standin

__all__ = ["MODEL", "standin"]

MODEL = "teacher"


def standin(data: DataSet, given: Queries) -> Standin:
    """Answers with questions of the training half that nobody gave as feedback.

    A new question to a passage is one of the passage's own category, another wording of a query
    one of the query's category. Nothing of the test half can be among them: `data.train` holds no
    text that stands there, too.
    """
    feedback = set(given.texts)
    questions: dict[str, list[str]] = {passage: [] for passage in data.passages}
    for text, own in zip(data.train.texts, data.train.own, strict=True):
        if text not in feedback:
            questions[data.passages[own]].append(text)
    about = {text: data.passages[own] for text, own in zip(given.texts, given.own, strict=True)}
    return Standin(Honest(questions, about), models=(MODEL,))
