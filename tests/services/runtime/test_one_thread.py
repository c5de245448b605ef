"""Processes beside the encoders multiply in one thread, however they were started."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SMALL = sorted(
    path.parent.name
    for path in (ROOT / "services").glob("*/__main__.py")
    if path.parent.name not in ("encoder", "command")
)
HELP = """
import runpy, sys
import psutil
sys.argv = ["router", "--help"]
try:
    runpy.run_module("services.router", run_name="__main__")
except SystemExit:
    assert "numpy" in sys.modules
    print(psutil.Process().num_threads())
"""


@pytest.mark.parametrize("service", SMALL)
def test_they_say_so_before_anything_else_is_imported(service: str) -> None:
    tree = ast.parse((ROOT / "services" / service / "__main__.py").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]

    assert isinstance(imports[0], ast.Import)
    assert [name.name for name in imports[0].names] == ["services.runtime.one_thread"]


def threads(given: str | None) -> int:
    """Of a router that was started alone, and asked for its options."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {} if given is None else {"OPENBLAS_NUM_THREADS": given}
    said = subprocess.run(
        [sys.executable, "-c", HELP],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(said.stdout.split()[-1])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core, one thread")
def test_started_alone_the_router_multiplies_in_one_thread_unless_somebody_wants_more() -> None:
    assert threads(None) == threads("2") - 1
