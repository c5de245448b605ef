"""ROUGE-L by the package, at the price of what it needs and no more."""

import subprocess
import sys

import pytest

from services.dissonance_monitor.rouge import MAX_CHARACTERS, rouge_l


def test_it_is_the_f1_of_the_longest_common_subsequence() -> None:
    assert rouge_l("the cat sat", ["the cat lay down"]) == pytest.approx(2 * 2 / (3 + 4))


def test_the_best_reference_counts_and_equality_is_one() -> None:
    assert rouge_l("a b", ["x y", "a c"]) == pytest.approx(0.5)
    assert rouge_l("!", ["?", "!"]) == 1.0
    assert rouge_l("a", []) == 0.0


def test_words_of_other_scripts_count() -> None:
    assert rouge_l("карта не работает", ["Карта работает"]) == pytest.approx(0.8)


def test_long_texts_are_compared_up_to_a_bound() -> None:
    long = "word " * MAX_CHARACTERS
    assert 0.99 < rouge_l(long + "x", [long]) <= 1.0


def test_the_package_comes_without_what_it_does_not_need() -> None:
    code = (
        "import sys; from services.dissonance_monitor.rouge import rouge_l;"
        "assert 'rouge_score' not in sys.modules;"
        "assert rouge_l('a b', ['a c']) == 0.5;"
        "print([n for n in ('sklearn', 'scipy') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
