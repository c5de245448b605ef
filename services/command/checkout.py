"""`consonance demo` and `consonance bench`: what lies beside the packages in a checkout."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from services.command.errors import DONE, InputRefused
from services.command.kit import group, say

__all__ = ["bench", "demo"]

ROOT: Final = Path(__file__).resolve().parents[2]

_WORDS = Parameter(allow_leading_hyphen=True, negative="", help="Handed on as they are")

_DEMO_EXAMPLES = """
Examples:

    consonance demo
        a fleet learns the standard library of this Python, in some 6 minutes

    consonance demo --feedback 256 --minutes 4 --report ./report
"""

_BENCH_EXAMPLES = """
Examples:

    consonance bench
        which benchmarks there are

    consonance bench learning --data ./banking77 --feedback 64,256 --seeds 1
    consonance bench gate --help
"""

# Without help of their own: --help goes to the program behind.
demo = group("demo", "Watch a fleet get better at a real domain.", _DEMO_EXAMPLES)
demo.help_flags = ()
bench = group("bench", "Run one of the benchmarks.", _BENCH_EXAMPLES)
bench.help_flags = ()


@demo.default
def _demo(*words: Annotated[str, _WORDS]) -> int:
    """Watch a fleet get better at a real domain: `demo --help` tells the options."""
    return _run("demo", words)


@bench.default
def _bench(name: Annotated[str | None, _WORDS] = None, /, *words: Annotated[str, _WORDS]) -> int:
    """Run one of the benchmarks; without a name, say which there are.

    Parameters
    ----------
    name
        Such as learning, gate, routing; `bench NAME --help` tells the options
    """
    known = _benchmarks()
    if name in (None, "--help", "-h"):
        for one in known:
            say(one)
        return DONE
    if name not in known:
        raise InputRefused(f"there is no benchmark {name!r}; known are {', '.join(known)}")
    return _run(f"benchmarks.{name}", words)


def _benchmarks() -> list[str]:
    return sorted(file.parent.name for file in _folder("benchmarks").glob("*/__main__.py"))


def _run(module: str, words: tuple[str, ...]) -> int:
    """Run a module of the checkout in this process, as `python -m` would."""
    _folder(module.partition(".")[0])
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise InputRefused(ended.code) from ended
        return ended.code or DONE
    return DONE


def _folder(name: str) -> Path:
    folder = ROOT / name
    if not (folder / "__init__.py").is_file():
        raise InputRefused(
            f"the folder {name} is not installed with the packages: run this in a checkout of "
            "Consonance"
        )
    return folder
