"""Ask for the known holes in what is locked: `make audit`.

python locks/audit.py [FILE …]     the lock files, all of them unless some are named

Exit status: 0 nothing known, 1 there are holes, 3 nobody could say: the database was not reached,
or does not know a distribution. pip-audit itself calls the latter a success.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent
HOLES, UNKNOWN = 1, 3


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit status that a report of pip-audit deserves, and its lines."""
    holes, unknown, known = [], [], 0
    for one in report["dependencies"]:
        if "skip_reason" in one:
            unknown.append(one["name"])
            continue
        known += 1
        holes += [
            f"{one['name']} {one['version']}: {hole['id']}, mended in "
            + (", ".join(hole["fix_versions"]) or "no version yet")
            for hole in one["vulns"]
        ]
    lines = [*holes, f"{known} distributions audited, {len(holes)} known holes"]
    if unknown and not known:
        lines = [f"NOT AUDITED: the database that was asked knows none of {len(unknown)}"]
        lines += ["distributions, so that nobody can say whether there are holes in them"]
    elif unknown:
        few = ", ".join(unknown[:8]) + (f" and {len(unknown) - 8} more" if unknown[8:] else "")
        lines.append(f"NOT KNOWN to the database that was asked, hence not audited: {few}")
    return (HOLES if holes else UNKNOWN if unknown or not known else 0), lines


def main(files: Sequence[str]) -> int:
    """Run pip-audit on the lock files and say plainly what came of it."""
    named = [Path(file) for file in files] or sorted(LOCKS.glob("*.txt"))
    # It knows a release by its public version: +cpu is the same source, built otherwise.
    asked = [path for path in named if path.name != "torch-cpu.txt"]
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", *(f"--requirement={path}" for path in asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        code, lines = verdict(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
        code = UNKNOWN
        lines = ["NOT AUDITED: the database of known holes was not reached, so that nobody can say"]
        lines += [f"whether there are any in what is locked. pip-audit said last: {said[-1]}"]
    print(*lines, sep="\n", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
