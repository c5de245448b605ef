"""What the benchmarks of speed share: turns, ratios of each round, one table, one machine line."""

from __future__ import annotations

import io
import time

import msgspec
import pytest
from rich.console import Console

from benchmarks.kit.command import measured_on
from benchmarks.kit.rounds import Comparison, Relation, Report, compare, figure, interleaved, ratios
from benchmarks.kit.show import machine_line, met_sign, number, show, spread, wanted, with_unit


def report(*comparisons: Comparison, notes: tuple[str, ...] = ()) -> Report:
    return Report(
        name="toy",
        command="python -m benchmarks.toy",
        machine={"cores": 2, "python": "3.12.1", "seconds": 3.2},
        versions={"peer": "1.0"},
        figures=(figure("a list", "ours", "texts/s", [3.0, 1.0, 2.0]),),
        comparisons=comparisons,
        notes=notes,
    )


def printed(given: Report) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    show(given, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_goes_first_once_in_as_many_rounds_as_there_are() -> None:
    order: list[str] = []
    told: list[None] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved(
        {name: lambda name=name: contestant(name) for name in "abc"},  # type: ignore[misc]
        3,
        tell=lambda: told.append(None),
    )

    assert order == list("abc" + "bca" + "cab")
    assert found == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}
    assert len(told) == 9


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_of_the_medians() -> None:
    ours, theirs = [1.0, 10.0, 100.0], [2.0, 5.0, 100.0]

    found = compare("x", ("ours", ours), ("theirs", theirs))

    assert ratios(ours, theirs) == [0.5, 2.0, 1.0]
    assert (found.ratio, found.least, found.most, found.unit) == (1.0, 0.5, 2.0, "×")


def test_a_difference_is_ours_less_theirs_in_its_unit() -> None:
    found = compare("x", ("ours", [5.0, 9.0]), ("theirs", [4.0, 6.0]), difference="ms")

    assert (found.ratio, found.least, found.most, found.unit) == (2.0, 1.0, 3.0, "ms")


def test_rounds_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare("x", ("ours", [1.0]), ("theirs", [1.0, 2.0]))


@pytest.mark.parametrize(
    ("relation", "target", "met"),
    [
        (">=", 1.4, True),
        (">=", 1.6, False),
        ("<=", 1.5, True),
        ("<=", 1.4, False),
        (None, None, None),
    ],
)
def test_whether_it_is_as_wanted(
    relation: Relation | None, target: float | None, met: bool | None
) -> None:
    found = compare("x", ("o", [3.0]), ("t", [2.0]), relation=relation, wanted=target)

    assert found.met is met
    assert report(found).found()["comparisons"][0]["met"] is met
    assert met_sign(found) == {True: "✓", False: "✗", None: ""}[met]


def test_what_is_written_is_read_again_as_it_was() -> None:
    one = compare("x", ("o", [3.0]), ("t", [2.0]), relation=">=", wanted=1.4)
    given = report(one, notes=("a note",))

    again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(given.found())), Report)

    assert again == given


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.00123, "0.0012"),
        (0.3333, "0.333"),
        (0.99961, "1.00"),
        (1.434, "1.43"),
        (9.996, "10.0"),
        (42.42, "42.4"),
        (99.96, "100"),
        (-141.2, "-141"),
        (12345.6, "12,346"),
    ],
    ids=str,
)
def test_a_number_has_the_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_units_stand_behind_a_number_and_a_difference_has_its_sign() -> None:
    assert with_unit(1.5, "×") == "1.50×"
    assert with_unit(2.0, "ms") == "+2.00 ms"
    assert with_unit(-2.0, "ms") == "-2.00 ms"
    assert spread(1.0, 20.0) == "1.00 – 20.0"
    later = compare("x", ("o", [3.0]), ("t", [2.0]), relation="<=", wanted=2.0, difference="ms")
    assert wanted(later) == "≤ +2.00 ms"


def test_the_table_shows_figures_comparisons_notes_and_the_machine() -> None:
    missed = compare("a [list]", ("o", [1.0]), ("peer", [2.0]), relation=">=", wanted=1.4)
    free = compare("free", ("o", [1.0]), ("peer", [2.0]))

    text = printed(report(missed, free, notes=("what [limits] it",)))

    for part in ("texts/s", "a [list]", "≥ 1.40×", "✗", "free", "· what [limits] it"):
        assert part in text
    assert text.endswith("2 cores, Python 3.12.1, took 3 s\npeer 1.0\n")


def test_an_empty_report_shows_no_empty_table() -> None:
    empty = Report(name="toy", command="", machine={}, versions={})

    assert printed(empty).strip() == ""


def test_the_machine_says_what_it_is_and_how_much_of_it_others_had() -> None:
    machine = measured_on(time.monotonic())

    assert machine["cores"] >= 1
    assert 0 <= machine["others"] <= 1
    assert machine["memory_gb"] > 0
    assert "of the cores' time went to other work" in machine_line(machine)
