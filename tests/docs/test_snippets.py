"""What stands in the documents' fenced blocks is true: commands, settings, JSON, Python.

A command is given to the very parser that reads it, and not run: an option that does not exist
fails here. What is more than that, pages have tests of their own for.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import importlib.util
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
import yaml
from cyclopts import CycloptsError

from bus.access.roles import READY, load_roles
from services.command.errors import CommandError
from services.command.kinds import kinds_of
from services.runtime.settings import load_settings
from tests.docs.snippets import ROOT, Snippet, commands, of_text, snippets

KINDS = {"console", "sh", "python", "toml", "json", "yaml", "ini", "text"}
PLAIN = {
    ".",
    "cd",
    "cp",
    "echo",
    "export",
    "git",
    "rm",
    "rsync",
    "tail",
    "tr",
    "zcat",
    "pip",
    "docker",
    "kubectl",
}
"""Programs that are not ours."""

pytestmark = pytest.mark.docs


def params(*kinds: str) -> list[Any]:
    return [pytest.param(snippet, id=snippet.name) for snippet in snippets(*kinds)]


def test_every_block_says_what_it_is() -> None:
    assert {f"{one.name} {one.kind}" for one in snippets() if one.kind not in KINDS} == set()


@pytest.mark.parametrize("snippet", params("console", "sh"))
def test_commands_are_read_by_the_programs_that_they_name(snippet: Snippet) -> None:
    found = list(commands(snippet))
    assert found, f"{snippet.name} holds no command"
    for words in found:
        try:
            check(words)
        except (AssertionError, CommandError, CycloptsError, SystemExit, ValueError) as error:
            pytest.fail(f"{snippet.name}: {shlex.join(words)}: {error}")


@pytest.mark.parametrize("snippet", params("toml"))
def test_settings_and_roles_are_loaded_as_they_stand(snippet: Snippet, tmp_path: Path) -> None:
    file = tmp_path / "consonance.toml"
    file.write_text(snippet.body, "utf-8")
    if snippet.body.startswith("# keys/roles.toml"):
        assert len(load_roles(file)) > len(READY)
    else:
        load_settings(file)


@pytest.mark.parametrize("snippet", params("python"))
def test_python_compiles(snippet: Snippet) -> None:
    compile(unfolded(snippet.body), snippet.name, "exec")


@pytest.mark.parametrize("snippet", params("json", "yaml", "ini"))
def test_data_can_be_read(snippet: Snippet) -> None:
    read = {
        "json": json.loads,
        "yaml": yaml.safe_load,
        "ini": configparser.ConfigParser().read_string,
    }
    read[snippet.kind](snippet.body)


def unfolded(body: str) -> str:
    """The block with the files in it that the site puts there."""
    return re.sub(
        r'^--8<-- "(.+)"$',
        lambda found: (ROOT / "docs" / found[1]).read_text("utf-8"),
        body,
        flags=re.MULTILINE,
    )


def check(words: list[str]) -> None:
    """Give a command to its parser; raises where it is refused."""
    while words and re.fullmatch(r"\w+=.*", words[0]):  # NAME=value before the program
        words = words[1:]
    if not words:
        return
    program, *rest = words
    if program in PLAIN:
        return
    known: dict[str, Callable[[list[str]], None]] = {
        "consonance": _consonance,
        "python": _python,
        ".venv/bin/pip": lambda rest: None,
        "make": _make,
        "curl": _curl,
    }
    assert program in known, f"nobody knows how to check {program!r}"
    known[program](rest)


def _consonance(words: list[str]) -> None:
    from services.command.app import app

    _cyclopts(app, words)


def _cyclopts(app: Any, words: list[str]) -> None:
    command, bound, _ = app.parse_args(
        words, exit_on_error=False, print_error=False, verbose=False, help_on_error=False
    )
    shown = getattr(command, "__name__", "") in ("help_print", "version_print")
    assert not shown or {"--help", "--version"} & set(words), "this only prints the help"
    if "types" in bound.arguments:  # of events: the command looks when it runs
        kinds_of(bound.arguments["types"], durable="journal" in words)
    for given in bound.arguments.values():  # where - may stand for a file, the command itself looks
        assert not isinstance(given, Path) or not re.match("-.", str(given)), f"option {given}"


def _python(words: list[str]) -> None:
    if words[0] == "-m":
        _module(words[1], words[2:])
    elif words[0] == "run_all.py":
        from services.fleet.cli import app

        _cyclopts(app, words[1:])
    else:
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"


def _module(name: str, words: list[str]) -> None:
    if name == "lora":
        from lora.commands import app as cards

        return _cyclopts(cards, words)
    if name == "services.federation.commands":
        from services.federation.commands import app as node

        return _cyclopts(node, words)
    if name == "services.command":
        return _consonance(words)
    if (ROOT / name.replace(".", "/") / "service.py").is_file():
        from services.runtime.main import arguments

        arguments(name.removeprefix("services."), words)
        return None
    assert name in ("mkdocs", "pytest") or importlib.util.find_spec(name), f"there is no {name}"
    if name == "benchmarks.versus_sentence_transformers":  # takes seconds to import
        files = (ROOT / name.replace(".", "/") / "__main__.py", ROOT / "benchmarks/kit/command.py")
        source = "".join(file.read_text("utf-8") for file in files)
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in source, word
    elif name.startswith("benchmarks."):
        _argparse(name, words)
    elif name == "bus":
        _argparse("bus.__main__", words)
    return None


class _Parsed(BaseException):
    """The command line was read; nothing is done."""


def _argparse(name: str, words: list[str]) -> None:
    """Run a module until it has read its command line."""
    module = name if name.endswith("__main__") else f"{name}.__main__"
    original = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        original(parser, args, namespace)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", [name, *words])
        patch.delitem(sys.modules, module, raising=False)
        try:
            runpy.run_module(module, run_name="__main__")
        except _Parsed:
            return
        except SystemExit:
            raise AssertionError(said.getvalue()) from None
    raise AssertionError("it reads no command line")


def _make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


def _curl(words: list[str]) -> None:
    """The path is one of the API's, and the body is one that it takes."""
    from services.api.app import OPERATIONS

    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("url")
    parser.add_argument("-d", "--data")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-X", "--request")
    parser.add_argument("-N", "--no-buffer", action="store_true")
    given = parser.parse_args(words)
    path, _, query = re.sub(r"^https?://[^/]+", "", given.url).partition("?")
    kinds_of(parse_qs(query).get("types", []))
    method = given.request or ("POST" if given.data else "GET")
    found = [
        one
        for one in OPERATIONS
        if one.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one.template), path)
    ]
    assert found, f"the API has no {method} {path}"
    if given.data:
        assert any("application/json" in header for header in given.header), "it wants JSON"
        msgspec.json.decode(given.data, type=found[0].takes)


def blocks(text: str) -> Iterator[list[str]]:
    for snippet in of_text(ROOT / "docs" / "here.md", text):
        yield from commands(snippet)


def test_pipes_redirections_and_long_lines_are_taken_apart() -> None:
    text = """
```console
$ echo "a b" | consonance encode --out x.npy 2> log && make demo
what it prints
$ curl http://h/v1/feedback -d '{"a":
   1}' > out
# make docs
```
"""
    assert list(blocks(text)) == [
        ["echo", "a b"],
        ["consonance", "encode", "--out", "x.npy"],
        ["make", "demo"],
        ["curl", "http://h/v1/feedback", "-d", '{"a":\n   1}'],
        ["make", "docs"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "consonance encode --no-such-option",
        "consonance no-such-command",
        "consonance watch --types no.such",
        "consonance journal tail --types encode.requested",
        "python run_all.py --workers many",
        "python -m lora extract base tuned",
        "python -m services.federation.commands trust",
        "python -m services.encoder --nobody",
        "python -m benchmarks.gate --seeds many",
        "python -m benchmarks.versus_sentence_transformers --no-such-option",
        "python -m bus keys client",
        "make no-such-target",
        "curl http://127.0.0.1:8321/v1/nothing",
        "launch-the-missiles",
    ],
)
def test_what_does_not_exist_is_found_out(line: str) -> None:
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, pytest.raises((AssertionError, CommandError, CycloptsError, SystemExit)):
        check(shlex.split(line))
