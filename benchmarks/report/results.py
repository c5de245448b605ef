"""What was found, one JSON file a benchmark, and how it comes there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.kit.command import Found, write_json
from benchmarks.kit.fleet import ROOT
from benchmarks.kit.rounds import Report
from benchmarks.report.catalogue import Entry, command_of
from benchmarks.report.federation import from_federation

__all__ = ["FOLDER", "Missing", "Result", "load", "measure", "parsed"]

FOLDER = ROOT / "benchmarks" / "results"


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """It was not measured."""

    name: str
    failed: str
    """The reason, one sentence."""


Result = Report | Missing


def load(entry: Entry, folder: Path) -> Result:
    """What the folder has of it."""
    file = folder / f"{entry.name}.json"
    if not file.is_file():
        return Missing(name=entry.name, failed="it has not been run yet")
    try:
        return parsed(entry, json.loads(file.read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:  # another version wrote it
        return Missing(name=entry.name, failed=f"its result cannot be read: {error}")


def parsed(entry: Entry, found: Found) -> Result:
    """The report in a JSON object; raises `ValueError`, `KeyError` or `TypeError`."""
    if "failed" in found:
        return msgspec.convert(found, Missing)
    if "seconds_each" in found:
        return from_federation(found, command_of(entry))
    return msgspec.convert(found, Report)


def measure(entry: Entry, folder: Path) -> Result:
    """Run it in a process of its own, which prints its tables, and keep what it found.

    What fails, or takes too long, is kept as the reason why there is nothing.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as aside:
        found = _found(entry, Path(aside))
        try:
            result = parsed(entry, found)
        except (ValueError, KeyError, TypeError) as error:
            found = {"name": entry.name, "failed": f"what it found is no report: {error}"}
            result = parsed(entry, found)
        write_json(found, folder / f"{entry.name}.json")
        return result


def _found(entry: Entry, aside: Path) -> Found:
    def failed(reason: str) -> Found:
        return {"name": entry.name, "failed": reason.replace(str(aside), "…")}

    module = f"benchmarks.{entry.name}"
    if find_spec(module) is None or find_spec(f"{module}.__main__") is None:
        return failed(f"there is no {module}")
    out, said = aside / "found.json", aside / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *entry.options, "--out", str(out)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=stream,
        )
        try:
            code = process.wait(60 * entry.minutes)
        except subprocess.TimeoutExpired:
            return failed(f"it was not done within {entry.minutes} minutes")
        finally:
            _end(process)
    if code == 130:
        raise KeyboardInterrupt
    if not out.is_file():
        last = said.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
        return failed(f"it ended with {code} and said: {last[0].strip()}")
    found: Any = json.loads(out.read_text("utf-8"))
    # What was typed names a temporary file; this is what to type.
    found["command"] = command_of(entry)
    machine = found.get("machine")
    (machine if isinstance(machine, dict) else found)["commit"] = _commit()
    return dict(found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order: its own children are stopped by it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _commit() -> str:
    """Short, with a + where the working tree differs; empty where it is no repository."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short=10", "HEAD")
    changed = commit and git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit
