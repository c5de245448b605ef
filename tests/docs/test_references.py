"""The pages that are made from the code are what the code would make of them now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

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


def test_every_command_is_in_the_reference_with_its_options() -> None:
    made = script("reference_cli")
    sections = re.split(r"^##+ `(.+)`$", made.page(), flags=re.MULTILINE)
    told = dict(zip(sections[1::2], sections[2::2], strict=True))
    found = {" ".join(words): command for words, command in made.leaves(made.app, ("consonance",))}
    assert len(found) > 25
    for words, command in found.items():
        for argument in command.assemble_argument_collection():
            if argument.show and not argument.children:
                assert f"`{argument.names[0]}`" in told[words], words
