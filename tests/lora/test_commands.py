"""The command: cards and tables come out, wrong input is one sentence and an exit code."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from lora import ArrowEngine, LoRAFormat
from lora.commands import main
from tests.lora.cards import cosines
from tests.lora.models import changed, low_rank


@pytest.fixture(scope="module")
def tuned_folder(tiny_folder, tmp_path_factory) -> Path:
    return changed(tiny_folder, tmp_path_factory.mktemp("tuned") / "model", low_rank(2))


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("how do i reset my card\n\nmy phone was stolen\n  x  \n")
    return file


@pytest.fixture
def run(capsys):
    """Runs the command; exit code, standard output, standard error."""

    def ran(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return ran


def test_two_folders_in_a_card_out(run, tiny_folder, tuned_folder, texts, tmp_path) -> None:
    out = tmp_path / "bank.lora.arrow"
    code, said, _ = run("extract", tiny_folder, tuned_folder, "--out", out, "--energy", 1)
    assert code == 0
    assert "encoder.layer.1.output.dense" in said
    card = LoRAFormat.read(out)
    assert (card.name, card.applies_to) == ("bank", ("query",))
    assert card.digest in said
    words = ["a b", "c d e"]
    found = ArrowEngine(tiny_folder, device="cpu").encode_with_lora(words, cards=[out])
    assert cosines(found, ArrowEngine(tuned_folder, device="cpu").encode(words)).min() > 0.9999
    # And for programs, with the comparison
    other = tmp_path / "b.lora.arrow"
    code, said, _ = run(
        *("extract", tiny_folder, tuned_folder, "--out", other, "--rank", 1, "--name", "one"),
        *("--targets", "query", "value", "--applies-to", "query", "document"),
        *("--texts", texts, "--json", "--dtype", "float16", "--description", "All."),
    )
    report = json.loads(said)
    assert code == 0
    assert report["digest"] == LoRAFormat.digest_of(other)
    assert {module["rank"] for module in report["modules"]} == {1}
    assert -1 <= report["cosine_card_least"] <= report["cosine_card"] <= 1.0001
    again = LoRAFormat.read(other)
    assert (again.name, again.applies_to) == ("one", ("query", "document"))
    assert again.description == "All."


def test_a_direct_part_of_one_model(run, tiny_folder, tmp_path) -> None:
    out = tmp_path / "less.lora.arrow"
    words = ("--direct", "--use", "remove", "--rank", 2, "--strength", 0.5)
    assert run("extract", tiny_folder, "--out", out, *words)[0] == 0
    assert LoRAFormat.read(out).extra["use"] == "remove"


def test_the_probe_by_texts_and_by_delta(run, tiny_folder, tuned_folder, texts) -> None:
    code, said, _ = run("probe", tiny_folder, "--texts", texts, "--rank", 2, "--top", 4)
    assert code == 0
    assert "4 of 13 layers" in said
    assert "…" not in said  # a layer whose name is cut short is not named
    code, said, _ = run("probe", tiny_folder, tuned_folder, "--json", "--budget", 1000)
    report = json.loads(said)
    shapes = {m["name"]: m["inputs"] + m["outputs"] for m in report["modules"]}
    assert code == 0
    assert sum(rank * shapes[name] for name, rank in report["ranks"].items()) <= 1000
    code, said, _ = run("probe", tiny_folder, "--texts", texts, "--json", "--limit", 2)
    assert json.loads(said)["texts"] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["probe", "BASE"], "give a file of --texts to run, or a second model"),
        (["probe", "BASE", "--texts", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["probe", "BASE", "--texts", "BLANK"], "holds no text"),
        (["probe", "BASE", "--texts", "BYTES"], "it is not UTF-8"),
        (["probe", "BASE", "TUNED", "--rank", "0"], "--rank must be at least 1, not 0"),
        (["probe", "BASE", "TUNED", "--budget", "9"], "buys no rank"),
        (["extract", "./no", "TUNED", "--out", "x.lora.arrow"], "neither a folder nor a hub id"),
        (["extract", "EMPTY", "TUNED", "--out", "x.lora.arrow"], "holds no model weights"),
        (["extract", "BASE", "BASE", "--out", "x.lora.arrow"], "have the same weights"),
        (["extract", "default", "TUNED", "--out", "x.lora.arrow"], "not of one architecture"),
        (["extract", "BASE", "TUNED", "--out", "x.arrow"], "is called NAME.lora.arrow"),
        (["extract", "BASE", "TUNED", "--out", "no/x.lora.arrow"], "no does not exist"),
        (["extract", "BASE", "TUNED", "--out", "OLD"], "--force replaces a file"),
        (["extract", "BASE", "TUNED", "--out", "X y.lora.arrow"], "'X y' is no card's name"),
        (["extract", "BASE", "--out", "x.lora.arrow"], "give a second model"),
        (["extract", "BASE", "--direct", "--texts", "OLD", "--out", "x.lora.arrow"], "has none"),
        (["extract", "BASE", "TUNED", "--out", "x.lora.arrow", "--rank", "0"], "rank must be"),
        (["extract", "BASE", "TUNED", "--out", "x.lora.arrow", "--rank", "x"], "unable to convert"),
        (["extract", "BASE", "TUNED"], "--out"),
        (["nothing"], "Unknown command"),
    ],
)
def test_wrong_input_is_one_sentence(
    run, tiny_folder, tuned_folder, tmp_path, monkeypatch, words, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.lora.arrow").write_text("x")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    places = {
        "BASE": tiny_folder,
        "TUNED": tuned_folder,
        "EMPTY": tmp_path / "empty",
        "OLD": tmp_path / "old.lora.arrow",
        "BLANK": tmp_path / "blank.txt",
        "BYTES": tmp_path / "bytes.txt",
    }
    code, said, error = run(*(places.get(word, word) for word in words))
    assert (code, said) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.lora.arrow").exists()
    assert (tmp_path / "old.lora.arrow").read_text() == "x"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    run, tiny_folder, tuned_folder, tmp_path
) -> None:
    # Given that no file may have more than 1,000 bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        found = run("extract", tiny_folder, tuned_folder, "--out", tmp_path / "x.lora.arrow")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    code, said, error = found
    assert (code, said) == (1, "")
    assert error.startswith("python -m lora: cannot go on: File too large")
    assert not list(tmp_path.glob("*lora.arrow*"))


def test_an_existing_card_is_replaced_when_told_so(run, tiny_folder, tuned_folder, tmp_path):
    out = tmp_path / "x.lora.arrow"
    out.write_text("old")
    assert run("extract", tiny_folder, tuned_folder, "--out", out, "--force")[0] == 0
    assert np.isfinite(LoRAFormat.read(out).metrics["captured"])


def test_help_tells_the_exit_codes(run) -> None:
    for words in ([], ["probe"], ["extract"]):
        code, said, _ = run(*words, "--help")
        assert code == 0
        assert "Exit codes: 0 done, 1 the disk or the machine failed, 2" in " ".join(said.split())


def test_who_interrupts_is_told_so(run, tiny_folder, texts, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lora.commands._lines", interrupted)
    assert run("probe", tiny_folder, "--texts", texts) == (130, "", "python -m lora: interrupted\n")
