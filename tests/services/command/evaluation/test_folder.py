"""Reading a folder: what is taken, and how every wrong file is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from services.command.errors import InputRefused
from services.command.evaluation import folder as folder_module
from services.command.evaluation.errors import FolderRefused
from services.command.evaluation.folder import LONGEST, read_folder, texts_of
from tests.services.command.evaluation.fakes import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, two queries."""
    documents = {"d1": "one", "d2": "two", "d3": "three"}
    return write_folder(
        tmp_path / "set", documents, {"q1": "first", "q2": "second"}, [("q1", "d1", 2)]
    )


def put(folder: Path, name: str, *lines: str | bytes) -> None:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    (folder / name).write_bytes(b"\n".join(raw) + b"\n")


def test_it_reads_what_beir_writes(folder: Path) -> None:
    put(
        folder,
        "corpus.jsonl",
        json.dumps({"_id": "d1", "title": "Title", "text": "and text", "metadata": {"url": 1}}),
        "",
        json.dumps({"_id": "d2", "title": "", "text": "no title"}),
        json.dumps({"_id": 3, "text": "a number as id"}),
        json.dumps({"_id": "d4", "title": None, "text": ""}),
    )
    put(
        folder,
        "qrels/test.tsv",
        "query-id\tcorpus-id\tscore",
        "q1\td1\t2",
        "q1\t3\t0",
        "q1\td4\t-1",
    )
    found = read_folder(folder)
    assert found.ids == ["d1", "d2", "3", "d4"]
    (query,) = found.queries
    assert (query.id, query.text, query.relevance, query.own) == (
        "q1",
        "first",
        {0: 2, 2: 0, 3: -1},
        -1,
    )
    (block,) = found.blocks
    assert texts_of(found, block) == ["Title and text", "no title", "a number as id", ""]


def test_windows_lines_a_byte_order_mark_and_no_header_are_taken(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(b'\xef\xbb\xbf{"_id": "d1", "text": "one"}\r\n\r\n')
    (folder / "qrels" / "test.tsv").write_bytes(b"q2\td1\t1\r\n")
    found = read_folder(folder)
    assert [query.id for query in found.queries] == ["q2"]
    assert texts_of(found, found.blocks[0]) == ["one"]


def test_a_folder_without_splits_has_one_file_of_judgements(folder: Path) -> None:
    shutil.rmtree(folder / "qrels")
    put(folder, "qrels.tsv", "q1\td1\t1")
    assert len(read_folder(folder).queries) == 1
    with pytest.raises(InputRefused, match=r"dev\.tsv does not exist"):
        read_folder(folder, "dev")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    put(folder, "qrels/dev.tsv", "q1\td1\t1")
    with pytest.raises(InputRefused, match="there are the splits dev, test"):
        read_folder(folder, "train")


def test_a_query_without_a_relevant_document_is_left_out_and_counted(folder: Path) -> None:
    put(folder, "qrels/test.tsv", "q1\td1\t0", "q2\td2\t1")
    found = read_folder(folder)
    assert [query.id for query in found.queries] == ["q2"]
    assert found.unanswerable == 1


def test_a_limit_takes_the_first_queries(folder: Path) -> None:
    put(folder, "qrels/test.tsv", "q2\td2\t1", "q1\td1\t1")
    assert [query.id for query in read_folder(folder, limit=1).queries] == ["q1"]


def test_the_document_of_a_querys_own_id_is_no_answer_unless_it_was_judged(folder: Path) -> None:
    put(folder, "queries.jsonl", '{"_id": "d1", "text": "a"}', '{"_id": "d2", "text": "b"}')
    put(folder, "qrels/test.tsv", "d1\td3\t1", "d2\td2\t1")
    assert [query.own for query in read_folder(folder).queries] == [0, -1]


def test_texts_beyond_what_a_fleet_takes_are_cut_between_characters(folder: Path) -> None:
    put(folder, "corpus.jsonl", json.dumps({"_id": "d1", "text": "é" * LONGEST}))
    found = read_folder(folder)
    assert found.shortened == 1
    (text,) = texts_of(found, found.blocks[0])
    assert set(text) == {"é"}
    assert len(text.encode()) in (LONGEST, LONGEST - 1)


def test_blocks_tell_where_they_are_and_what_they_hold(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_folder(folder)
    monkeypatch.setattr(folder_module, "BLOCK", 2)
    found = read_folder(folder)
    assert [(block.start, block.count) for block in found.blocks] == [(0, 2), (2, 1)]
    assert [texts_of(found, block) for block in found.blocks] == [["one", "two"], ["three"]]
    assert whole.blocks[0].digest not in {block.digest for block in found.blocks}
    put(
        folder,
        "corpus.jsonl",
        *(f'{{"_id": "x{n}", "text": "{t}"}}' for n, t in enumerate(("one", "two"))),
    )
    again = read_folder_of_corpus(folder)
    assert again[0] == found.blocks[0].digest, "by the texts, whatever the ids"


def read_folder_of_corpus(folder: Path) -> list[str]:
    put(folder, "qrels/test.tsv", "q1\tx1\t1")
    return [block.digest for block in read_folder(folder).blocks]


def test_a_corpus_that_changes_while_it_is_read_is_refused(folder: Path) -> None:
    found = read_folder(folder)
    put(folder, "corpus.jsonl", '{"_id": "d1", "text": "eins"}')
    with pytest.raises(FolderRefused, match="was changed while it was read"):
        texts_of(found, found.blocks[0])


WRONG = {
    "no JSON": ("corpus.jsonl", ["{"], r"corpus\.jsonl:1: .*_id, text, title"),
    "no object": ("corpus.jsonl", ["[]"], r"corpus\.jsonl:1: .*Expected `object`"),
    "no id": ("corpus.jsonl", ['{"text": "t"}'], r"corpus\.jsonl:1: .*required field `_id`"),
    "no text": ("corpus.jsonl", ['{"_id": "d1"}'], r"corpus\.jsonl:1: .*required field `text`"),
    "text is a number": ("corpus.jsonl", ['{"_id": "a", "text": 1}'], r":1: .*Expected `str`"),
    "empty id": ("corpus.jsonl", ['{"_id": "", "text": "t"}'], r"corpus\.jsonl:1: the id '' is"),
    "tab in the id": (
        "corpus.jsonl",
        ['{"_id": "a\\tb", "text": "t"}'],
        r":1: the id .* has a tab",
    ),
    "id twice": (
        "corpus.jsonl",
        ['{"_id": "d1", "text": "t"}', '{"_id": "d1", "text": "u"}'],
        r"corpus\.jsonl:2: the id 'd1' is there a second time",
    ),
    "no UTF-8": ("corpus.jsonl", [b'{"_id": "d1", "text": "\xff"}'], r"corpus\.jsonl:1: "),
    "half a character": (
        "corpus.jsonl",
        ['{"_id": "d1", "text": "ok"}', '{"_id": "d2", "text": "\\ud800"}'],
        r"corpus\.jsonl:2: ",
    ),
    "no document": ("corpus.jsonl", [""], r"corpus\.jsonl holds no document"),
    "no query": ("queries.jsonl", [""], r"queries\.jsonl holds no query"),
    "query twice": (
        "queries.jsonl",
        ['{"_id": "q1", "text": "t"}', "", '{"_id": "q1", "text": "u"}'],
        r"queries\.jsonl:3: the id 'q1' is there a second time",
    ),
    "empty query": ("queries.jsonl", ['{"_id": "q1", "text": " "}'], r":1: the query 'q1' has no"),
    "unknown query": ("qrels/test.tsv", ["q9\td1\t1"], r"test\.tsv:1: there is no query 'q9'"),
    "unknown document": ("qrels/test.tsv", ["q1\td9\t1"], r"test\.tsv:1: there is no document"),
    "two columns": ("qrels/test.tsv", ["q1\td1"], r"test\.tsv:1: a line has three columns"),
    "spaces for tabs": ("qrels/test.tsv", ["q1 d1 1"], r"test\.tsv:1: a line has three columns"),
    "score no number": ("qrels/test.tsv", ["q1\td1\tyes"], r":1: the relevance is 'yes', not a"),
    "score a fraction": ("qrels/test.tsv", ["q1\td1\t0.5"], r":1: the relevance is '0.5', not a"),
    "judged twice": (
        "qrels/test.tsv",
        ["q1\td1\t1", "q1\td1\t2"],
        r":2: the document 'd1' was judged 1 for the query 'q1' above, and 2 here",
    ),
    "judgements no UTF-8": ("qrels/test.tsv", [b"q1\td\xff\t1"], r"test\.tsv:1: it is not UTF-8"),
    "nothing relevant": ("qrels/test.tsv", ["q1\td1\t0"], "names no relevant document"),
    "no judgement": ("qrels/test.tsv", [""], "names no relevant document"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_with_file_and_line(folder: Path, case: str) -> None:
    name, lines, sentence = WRONG[case]
    put(folder, name, *lines)
    with pytest.raises(FolderRefused, match=sentence) as refused:
        read_folder(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_file_that_is_not_there_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FolderRefused, match=rf"{name} cannot be read: No such file"):
        read_folder(folder)


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="is no folder"):
        read_folder(tmp_path / "absent")
