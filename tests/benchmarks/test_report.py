"""The page of the benchmarks: made of the results alone, the same each time, nothing left out."""

from __future__ import annotations

import json
import xml.etree.ElementTree as Tree
from pathlib import Path

import pytest

from benchmarks.kit.rounds import Report, compare, figure
from benchmarks.report import results
from benchmarks.report.__main__ import main, options_of
from benchmarks.report.catalogue import CATALOGUE, Entry, command_of
from benchmarks.report.federation import from_federation
from benchmarks.report.page import loses, page
from benchmarks.report.picture import draw
from benchmarks.report.results import Missing, load, measure, parsed

ENCODE = CATALOGUE[0]
AHEAD = compare("64 clients", ("consonance", [3.0]), ("peer", [2.0]), relation=">=", wanted=1.4)
MISSED = compare("a|b <i>", ("consonance", [1.0]), ("peer", [2.0]), relation=">=", wanted=1.0)
ENOUGH = compare("bus", ("consonance", [1.0]), ("bare", [2.0]), relation=">=", wanted=0.4)
SLOWER = compare(
    "p50", ("consonance", [3.0]), ("peer", [2.0]), relation="<=", wanted=2.0, difference="ms"
)
FREE = compare("free", ("consonance", [1.0]), ("peer", [2.0]))
REPORT = Report(
    name="encode",
    command="python -m benchmarks.encode --bulk --engine",
    machine={"cores": 2, "date": "2026-11-21", "commit": "abc", "others": 0.25, "seconds": 9.0},
    versions={"peer": "1.0"},
    figures=(figure("64 clients", "consonance", "texts/s", [3.0, 4.0, 5.0]),),
    comparisons=(AHEAD, MISSED, ENOUGH, SLOWER, FREE),
    notes=("they share one connection",),
)
FEDERATION = {
    "bytes": 50_000_000,
    "seconds_each": {
        "bare 512": [0.05, 0.1],
        "bare 512 file": [0.1, 0.1],
        "frames": [0.05, 0.05],
        "ours streamed": [0.2, 0.2],
        "ours installed": [0.4, 0.4],
    },
    "growth_bytes": {"sender": 0, "receiver": 4_800_000},
    "cores": 2,
    "seconds": 12.0,
}


def entry(name: str, *options: str) -> Entry:
    return Entry(name, "A toy", "It measures.", options)


def written(folder: Path, report: Report = REPORT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.name}.json").write_text(json.dumps(report.found()), "utf-8")
    return folder


def made(tmp_path: Path) -> tuple[str, str]:
    """Page and picture, by the command itself."""
    words = ["--results", str(written(tmp_path / "results"))]
    words += ["--page", str(tmp_path / "docs" / "page.md")]
    words += ["--pictures", str(tmp_path / "docs" / "pictures")]
    assert main(words) == 0
    picture = tmp_path / "docs" / "pictures" / "encode.svg"
    return (tmp_path / "docs" / "page.md").read_text("utf-8"), picture.read_text("utf-8")


def test_the_same_results_make_the_same_page_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(tmp_path)

    assert made(tmp_path) == first
    assert "![Encoding" in first[0]
    assert "](pictures/encode.svg)" in first[0]
    assert "written: " in capsys.readouterr().out


def test_the_page_has_every_figure_and_says_where_we_lose() -> None:
    text = page({"encode": REPORT}, {})

    assert "3 of 4 are as wanted" in text
    assert "- `encode`, a\\|b &lt;i&gt;, against peer: 0.500× (wanted: ≥ 1.00×)" in text
    assert "- `encode`, bus, against bare: 0.500×\n" in text  # as wanted, and yet slower
    assert "- `encode`, p50, against peer: +1.00 ms\n" in text
    assert "$ python -m benchmarks.encode --bulk --engine" in text
    assert "| 64 clients | consonance | 4.00 | 3.00 – 5.00 | texts/s |" in text
    assert "- they share one connection" in text
    assert "3 rounds, 2026-11-21, commit abc, 2 cores, 25% of the cores' time" in text
    assert text.count("Not measured: it has not been run yet.") == len(CATALOGUE) - 1


def test_who_loses_misses_what_is_wanted_or_is_behind_the_other_one() -> None:
    assert [loses(row) for row in REPORT.comparisons] == [False, True, True, True, False]


def test_a_benchmark_that_failed_stands_there_with_its_reason() -> None:
    failed = Missing(name="encode", failed="it ended with 1 and said: no <bus>")

    assert "Not measured: it ended with 1 and said: no &lt;bus&gt;." in page({"encode": failed}, {})


def test_a_picture_is_svg_with_text_and_colours_for_day_and_night() -> None:
    drawn = draw(REPORT, "Encoding")

    assert drawn is not None
    tree = Tree.fromstring(drawn)  # noqa: S314  (ours)
    said = " ".join("".join(it.itertext()) for it in tree.iter("{http://www.w3.org/2000/svg}text"))
    for part in ("Encoding", "64 clients", "against peer", "1.50×", "0.500×"):
        assert part in said
    assert "p50" not in said  # a difference is no ratio
    assert "prefers-color-scheme: dark" in drawn
    assert "<image" not in drawn


def test_without_ratios_there_is_no_picture() -> None:
    bare = Report(name="x", command="", machine={}, versions={}, comparisons=(SLOWER,))

    assert draw(bare, "X") is None


def test_what_cannot_be_read_is_not_measured(tmp_path: Path) -> None:
    assert load(ENCODE, tmp_path) == Missing(name="encode", failed="it has not been run yet")
    (tmp_path / "encode.json").write_text('{"name": 3}', "utf-8")
    broken = load(ENCODE, tmp_path)
    assert isinstance(broken, Missing)
    assert broken.failed.startswith("its result cannot be read: ")


def test_a_failed_run_keeps_its_last_words_and_a_later_look_finds_them(tmp_path: Path) -> None:
    found = measure(entry("federation", "--megabytes", "0"), tmp_path)

    assert isinstance(found, Missing)
    assert found.failed.startswith("it ended with 2 and said: ")
    assert "--megabytes should be from 1 to 200" in found.failed
    assert load(entry("federation"), tmp_path) == found


def test_a_benchmark_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    found = measure(entry("nowhere"), tmp_path)

    assert found == Missing(name="nowhere", failed="there is no benchmarks.nowhere")


def test_the_federation_s_own_form_becomes_a_report() -> None:
    found = parsed(entry("federation"), FEDERATION)

    assert found == from_federation(FEDERATION, "python -m benchmarks.federation")
    assert isinstance(found, Report)
    frames, written, installed = found.comparisons
    assert (frames.ratio, frames.least, frames.most) == (1.5, 1.0, 2.0)
    assert (written.ratio, installed.ratio) == (0.5, 0.25)
    assert found.figures[0].unit == "MB/s"


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda it: it.name)
def test_each_is_run_with_options_that_it_has(entry: Entry) -> None:
    assert command_of(entry).startswith(f"python -m benchmarks.{entry.name}")
    source = Path(results.ROOT, "benchmarks", entry.name)
    assert (source / "__main__.py").is_file()
    places = (source, source.parent / "kit")  # options that all share are the kit's
    said = "".join(file.read_text("utf-8") for place in places for file in place.glob("*.py"))
    missing = [it for it in entry.options if it.startswith("--") and f'"{it}"' not in said]
    assert missing == []


def test_only_named_ones_are_measured_and_unknown_names_refused() -> None:
    chosen = options_of(["--all", "--only", "bus,encode"]).measured

    assert [it.name for it in chosen] == ["encode", "bus"]
    assert options_of([]).measured == []
    assert options_of(["--all"]).measured == list(CATALOGUE)
    with pytest.raises(SystemExit):
        options_of(["--only", "nowhere"])
