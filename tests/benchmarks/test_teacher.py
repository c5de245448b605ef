"""The server that stands in for the cloud knows the training half alone, without the feedback."""

import json
import urllib.request
from pathlib import Path

from benchmarks.learning.data import read
from benchmarks.teacher.__main__ import TEACHER
from benchmarks.teacher.cloud import MODEL, standin
from services.distiller.cloud.asks import plan
from services.distiller.teacher import Asked, Material
from services.runtime.settings import TeacherSettings

NAMES = ("card_arrival", "lost_card", "top_up")


def folder(path: Path) -> Path:
    rows = [f"{name} train {number},{name}" for name in NAMES for number in range(30)]
    tests = [f"{name} test {number},{name}" for name in NAMES for number in range(5)]
    # What stands in both halves belongs to the test half.
    (path / "train.csv").write_text("\n".join(["text,category", *rows, *tests[:3]]), "utf-8")
    (path / "test.csv").write_text("\n".join(["text,category", *tests]), "utf-8")
    (path / "categories.json").write_text(json.dumps(NAMES), "utf-8")
    return path


def ask(url: str, body: dict) -> dict:
    request = urllib.request.Request(  # noqa: S310 (a loopback address)
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.loads(json.load(answer)["choices"][0]["message"]["content"])


def test_no_answer_holds_a_test_query_or_feedback(tmp_path: Path) -> None:
    data = read(folder(tmp_path))
    given = data.train.sample(20, 1)
    queries = tuple(
        Asked(text, (data.passages[own],), near=data.passages)
        for text, own in zip(given.texts, given.own, strict=True)
    )
    material = Material("banking", queries, data.passages)
    settings = TeacherSettings(model=MODEL, questions_per_passage=20, paraphrases_per_query=20)
    own = dict(zip(data.train.texts, data.train.own, strict=True))
    seen = 0
    with standin(data, given) as server:
        for request in plan(material, settings):
            reply = ask(server.url, request.body(MODEL, 4096))
            for item in reply["items"]:
                shown = request.items[item["id"]].shown
                about = shown.get("passage") or shown["passages"][0]
                for text in item.get("texts", ()):
                    seen += 1
                    assert text not in given.texts
                    assert text not in data.test.texts
                    assert data.passages[own[text]] == about
                if "grades" in item:
                    right = data.passages[own[shown["query"]]]
                    graded = zip(shown["passages"], item["grades"], strict=True)
                    assert all((grade == 3) == (text == right) for text, grade in graded)
    assert seen > 100


def test_the_fleet_is_told_to_ask() -> None:
    assert TEACHER.settings["distiller"]["teacher"] == "openai"
    assert TEACHER.settings["teacher"]["model"] == MODEL
