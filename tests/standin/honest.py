"""Honest answers, drawn from data: questions that people really asked of a passage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Honest"]


class Honest:
    """Answers a prompt document from what it knows; the same document gets the same answer.

    `questions` maps a passage to questions that it answers. A query's passage is the one it is
    shown with, or the one in `passage_of`.
    """

    def __init__(
        self,
        questions: Mapping[str, Sequence[str]],
        passage_of: Mapping[str, str] | None = None,
    ) -> None:
        self._questions = questions
        self._passage_of = passage_of or {}

    def __call__(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The object that the model would write."""
        task, count = document["task"], document.get("count", 0)
        items = []
        for item in document["items"]:
            if task == "grades":
                own = self._passage_of.get(item["query"])
                grades = [3 if passage == own else 0 for passage in item["passages"]]
                items.append({"id": item["id"], "grades": grades})
            else:
                texts = self._texts(document, item, count)
                items.append({"id": item["id"], "texts": texts})
        return {"items": items}

    def _texts(self, document: Mapping[str, Any], item: Mapping[str, Any], count: int) -> list[str]:
        task = document["task"]
        if task == "questions":
            seed = " ".join([*document.get("examples", ()), item["passage"]])
            return self._drawn(task, seed, item["passage"], count)
        own = self._passage_of.get(item["query"])
        if task == "paraphrases":
            return self._drawn(task, item["query"], own or item["passages"][0], count)
        if task == "answers":
            return [own] if own else []
        others = [passage for passage in self._questions if passage not in item["passages"]]
        return _chosen(f"{task} {item['query']}", others, count)

    def _drawn(self, task: str, seed: str, passage: str, count: int) -> list[str]:
        return _chosen(f"{task} {seed}", self._questions.get(passage, ()), count)


def _chosen(seed: str, texts: Sequence[str], count: int) -> list[str]:
    """`count` of them, always the same for a seed."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())[
        :count
    ]
