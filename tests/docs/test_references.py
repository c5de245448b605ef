"""The pages that are made from the code are what the code would make of them now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from services.runtime import settings_text

DOCS = Path(__file__).resolve().parents[2] / "docs"

pytestmark = pytest.mark.docs


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["reference_api", "reference_cli"])
def test_the_page_is_what_its_script_writes(name: str) -> None:
    made = script(name)
    text: str = made.DOCUMENT.read_text("utf-8")
    assert text == made.page(), f"renew it: python docs/{name}.py"


def test_the_settings_are_those_of_the_code() -> None:
    renew = "renew it: python -m services.runtime.settings_text docs/settings.md"
    assert (DOCS / "settings.md").read_text("utf-8") == settings_text.markdown(), renew


def test_every_command_is_in_the_reference_with_its_options() -> None:
    made = script("reference_cli")
    text = made.page()
    for words, command in made.leaves(made.app, ("consonance",)):
        section = text.split(f"\n## `{' '.join(words)}`\n")[1].split("\n## ")[0]
        for argument in command.assemble_argument_collection():
            if argument.show and not argument.children:
                assert f"`{argument.names[0]}`" in section
