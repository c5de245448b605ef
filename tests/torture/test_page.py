"""The page on reliability says what the kept results say."""

from __future__ import annotations

import pytest

from tests.torture.kit import Outcome
from tests.torture.page import BEGIN, END, PAGE, kept, rewritten, section


def test_the_page_holds_what_was_kept() -> None:
    page = PAGE.read_text("utf-8")
    assert rewritten(page, kept()) == page


def test_a_promise_that_did_not_hold_is_said() -> None:
    outcome = Outcome("journal", 7, 90.0, {"events": 12_000}, ("two were lost: seed 7",))
    said = section(outcome)
    assert "| events | 12,000 |" in said
    assert "not** hold" in said
    assert "- two were lost: seed 7" in said
    assert "Every promise held" not in said


def test_only_what_is_between_the_marks_is_written_anew() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    found = rewritten(page, [Outcome("disk", 1, 60.0)])
    assert found.startswith("above\n")
    assert found.endswith("\nbelow\n")
    assert "old" not in found
    with pytest.raises(ValueError, match="lacks the lines"):
        rewritten("no marks", [])
