"""docs/how-to/containers.md speaks of the services, variables and settings that there are."""

import re
from pathlib import Path

import pytest

from containers.check.compose import services
from services.command.app import app
from tests.docs.snippets import commands, of_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "containers.md"
TEXT = PAGE.read_text("utf-8")
FOUND = services(ROOT / "compose.yaml")

BLOCKS = [snippet for snippet in of_text(PAGE, TEXT) if snippet.kind == "console"]
COMMANDS = [
    words[words.index("compose") + 1 :]
    for snippet in BLOCKS
    for words in commands(snippet)
    if "compose" in words
]
WITH_VALUES = {"--profile", "--scale", "--volume"}

pytestmark = pytest.mark.docs


def plain(words: list[str]) -> list[str]:
    """Without options that stand before the first service, and without their values."""
    found: list[str] = []
    skip = False
    for place, word in enumerate(words):
        if skip or word.startswith("-"):
            skip = word in WITH_VALUES
        elif word in FOUND:
            return [*found, *words[place:]]
        else:
            found.append(word)
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_names_services_that_are_there(words: list[str]) -> None:
    verb, *rest = plain(words)
    if verb in ("exec", "run"):
        service, *inner = rest
        assert service in FOUND
        if inner[:1] == ["consonance"]:
            app.parse_args(inner[1:], exit_on_error=False, print_error=False)
    else:
        assert verb in ("up", "stop", "down", "logs", "restart")
        assert set(rest) <= set(FOUND)


def test_every_variable_of_the_file_is_told_with_its_default() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    used = dict(re.findall(r"\$\{(CONSONANCE_\w+):?-([^}]*)\}", text))
    used |= dict.fromkeys(re.findall(r"^ +(CONSONANCE_\w+):(?: *#.*)?$", text, re.M), "")
    rows = {
        row: line for line in TEXT.splitlines() for row in re.findall(r"`(CONSONANCE_\w+)`", line)
    }

    assert set(rows) == set(used)
    for name, default in used.items():
        if name != "CONSONANCE_TORCH_INDEX":  # told in words
            assert default in rows[name], name


def test_every_service_stands_in_its_table() -> None:
    table = TEXT.partition("## What runs")[2].partition("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert told == set(FOUND)
