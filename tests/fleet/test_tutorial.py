"""The tutorial's last step, as it stands: own data measured, feedback given from it, better."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from services.command import main
from tests.docs.snippets import DOCS, commands, of_text
from tests.fleet import harness
from tests.fleet.jargon import PASSAGES, pairs

CONFIG = """
[monitor]
batch_max_age = 3.0
[factory]
body_schedule = "off"
head_time_budget = 3.0
"""
LIMIT = 180.0  # seconds until the feedback must have become a skill
TRAINED = 112
"""Of the 160 queries; the others are measured on, and come from the same forms."""


def folder_of_jargon(folder: Path) -> None:
    """What the tutorial calls `support`: documents, queries, and judgements of two splits."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"kb-{n}", "text": text} for n, text in enumerate(PASSAGES)]
    asked = pairs()
    queries = [{"_id": f"q-{n}", "text": query} for n, (query, _) in enumerate(asked)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    judged = [f"q-{n}\tkb-{PASSAGES.index(right)}\t1" for n, (_, right) in enumerate(asked)]
    for split, part in (("train", judged[:TRAINED]), ("test", judged[TRAINED:])):
        text = "\n".join(["query-id\tcorpus-id\tscore", *part]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, "utf-8")


def run(*words: object) -> str:
    """What the command writes, once it has ended well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0, words
    return said.getvalue()


def steps() -> list[list[str]]:
    """The commands of the step `Your own data`."""
    page = DOCS / "tutorial.md"
    text = page.read_text("utf-8").split("Your own data\n")[1]
    (block,) = (one for one in of_text(page, text) if one.kind == "console")
    found = list(commands(block))
    assert {program for program, *_ in found} == {"consonance"}
    return [words for _, *words in found]


def mrr(report: str) -> dict[str, dict[str, Any]]:
    """What was found of MRR@10, by model."""
    return {one["model"]: one["measures"]["mrr@10"] for one in json.loads(report)["runs"]}


def wait_for_a_skill(*at: object) -> None:
    ends = time.monotonic() + LIMIT
    while not json.loads(run("skills", "list", "--json", *at))["skills"]:
        assert time.monotonic() < ends, run("skills", "history", "support", *at)
        time.sleep(0.5)


@pytest.mark.docs
@pytest.mark.timeout(300)
def test_own_data_is_measured_and_gets_better(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_jargon(tmp_path / "support")
    monkeypatch.chdir(tmp_path)
    before, made, given, watched, after = steps()
    assert watched == ["status", "--watch"]  # which a person ends

    with harness.running(short_path, "--workers", "1", config=CONFIG, covers=False) as fleet:
        at = ("--state", fleet.state)
        first = mrr(run(*before, "--json", *at))
        run(*made, *at)
        run(*given, *at)
        wait_for_a_skill(*at)
        then = mrr(run(*after, "--json", *at))

    assert first["base"]["value"] == first["auto"]["value"] == then["base"]["value"]
    assert first["auto"]["proven"] is False
    assert then["support"]["proven"] is True
    assert then["support"]["low"] > 0
