"""Three hosts: what counts as missed, and how it is told."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from benchmarks.hosts.__main__ import options_of
from benchmarks.hosts.run import Course, Plan, missed, told
from benchmarks.hosts.table import HEADS, rows, show

PART = told(
    "three hosts",
    [(0.0, 0.5, None), (0.5, 0.25, None), (1.5, 2.0, None), (0.0, 0.1, "overloaded")],
    2.0,
    {"broker": 0.002, "encoder": 1.0},
    {"encoder-1": 1, "encoder-host-1": 3},
    1.5,
)
GOOD = replace(PART, requests=3, failed={})
COURSE = Course(
    plan=Plan(transport="tcp", deadline=30.0), parts=(GOOD,), back_s=3.0, restarted_s=9.0
)


def test_a_stretch_counts_what_was_answered_while_clients_asked() -> None:
    assert (PART.requests, PART.answered, PART.failed) == (4, 3, {"overloaded": 1})
    assert PART.rate == 1.0  # the third came after the end
    assert (PART.p50_ms, PART.longest_s) == (500.0, 2.0)
    assert PART.cpu_us == {"broker": 500.0}
    assert PART.shares == {"encoder-1": 0.25, "encoder-host-1": 0.75}


def test_nothing_is_missed_where_every_request_was_answered_in_time() -> None:
    assert missed(COURSE) == []


@pytest.mark.parametrize(
    ("course", "says"),
    [
        (replace(COURSE, parts=(PART,)), "tcp, three hosts: 1 not answered (1 overloaded)"),
        (
            replace(COURSE, parts=(replace(GOOD, longest_s=31.0),)),
            "tcp, three hosts: one took 31.0 s",
        ),
        (replace(COURSE, back_s=None), "tcp: the host whose cable was mended did not come back"),
    ],
    ids=["unanswered", "late", "not back"],
)
def test_what_is_not_kept_is_said(course: Course, says: str) -> None:
    assert missed(course) == [says]


def test_the_table_has_every_part() -> None:
    stream = io.StringIO()
    show(COURSE, Console(file=stream, width=140))
    assert "three hosts" in stream.getvalue()
    assert [len(cells) for cells in rows(COURSE)] == [len(HEADS)]
    assert (rows(COURSE)[0][3], rows(COURSE)[0][-1]) == ("1.5", "25% 75%")


def test_a_cut_without_a_length_is_refused() -> None:
    assert options_of([]).cut == 10.0
    with pytest.raises(SystemExit):
        options_of(["--cut", "0"])
