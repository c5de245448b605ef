"""Write the lock files from pyproject.toml and constraints.txt: `make lock`.

python locks/renew.py UV        UV is the resolver that make lock installs, itself locked

constraints.txt says which version of each distribution; what is written here adds the SHA-256 of
every file that the package index has for that version, so that pip takes those bytes or none,
whatever the platform. Each distribution stands in one file:

build.txt    what builds ours and the few that come as source
torch-cpu.txt  PyTorch without CUDA, which its own index has (torch-cpu.sha256)
torch.txt    PyTorch as the common index has it
cuda.txt     what that one needs besides, on Linux alone
runtime.txt  all else that the fleet needs, on NATS too; the image is made of build, torch-cpu and
             runtime
dev.txt      what the tests, the checks, the documentation and the traces add
bench.txt    what the benchmarks add
tool.txt     the resolver
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parent
BUILD = ("setuptools", "hatchling", "editables")
DEV = ("test", "dev", "docs", "traces")
CUDA = re.compile(r"(nvidia|cuda)-[a-z0-9-]+|triton")
NOT_OURS = {"pip"}
"""What installs the rest comes with Python, and cannot vouch for itself."""


class Locked(NamedTuple):
    """One distribution: `name==version`, where it is wanted, and the files that are it."""

    pin: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return re.sub(r"[-_.]+", "-", self.pin.partition("==")[0]).lower()

    def text(self) -> str:
        head = f"{self.pin} ; {self.marker}" if self.marker else self.pin
        return " \\\n".join([head, *(f"    --hash={digest}" for digest in self.hashes)]) + "\n"


def parsed(text: str) -> dict[str, Locked]:
    """The distributions that a file in pip's form lists, by normalised name."""
    found = {}
    body = re.sub(r"(?m)^\s*#.*\n?", "", text).replace("\\\n", " ")
    for line in filter(None, map(str.strip, body.splitlines())):
        head, *hashes = re.split(r"\s+--hash=", line)
        pin, _, marker = (part.strip() for part in head.partition(";"))
        locked = Locked(pin, marker, tuple(sorted(digest.strip() for digest in hashes)))
        found[locked.name] = locked
    return found


def resolve(uv: str, *wanted: str, hashes: bool = False) -> dict[str, Locked]:
    """Everything that `wanted` needs on any platform, in the pinned versions."""
    command = [uv, "pip", "compile", "-", "-c", "constraints.txt", "--universal", "--no-config"]
    command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    command += ["--generate-hashes"] if hashes else []
    done = subprocess.run(
        command, cwd=ROOT, input="\n".join(wanted), stdout=subprocess.PIPE, text=True, check=True
    )
    return {name: one for name, one in parsed(done.stdout).items() if name not in NOT_OURS}


def write(name: str, locked: list[Locked]) -> None:
    """Write one file, sorted, so that a change shows as what it is."""
    head = "# Written by `make lock` from pyproject.toml and constraints.txt; not by hand.\n"
    body = "".join(one.text() for one in sorted(locked, key=lambda one: one.name))
    (LOCKS / name).write_text(head + body, "utf-8")
    print(f"{name}: {len(locked)} distributions")


def main(uv: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*BUILD, *project["dependencies"], *extras["nats"]]
    developed = needed + [one for extra in DEV for one in extras[extra]]
    everything = resolve(uv, *developed, *extras["bench"], hashes=True)
    cpu = (LOCKS / "torch-cpu.sha256").read_text("utf-8").splitlines()
    known = {f"sha256:{line.split()[0]}" for line in cpu if line and not line.startswith("#")}
    torch = everything["torch"]
    write("torch-cpu.txt", [Locked(f"{torch.pin}+cpu", "", tuple(sorted(known)))])

    files: dict[str, list[str]] = {"torch.txt": ["torch"]}
    files["cuda.txt"] = [name for name in everything if CUDA.fullmatch(name)]
    placed = {"torch", *files["cuda.txt"]}
    for file, wanted in (
        ("build.txt", list(BUILD)),
        ("runtime.txt", needed),
        ("dev.txt", developed),
        ("bench.txt", [*developed, *extras["bench"]]),
    ):
        files[file] = [name for name in resolve(uv, *wanted) if name not in placed]
        placed.update(files[file])
    for file, names in files.items():
        write(file, [everything[name] for name in names])
    tool = parsed((LOCKS / "tool.txt").read_text("utf-8")) if (LOCKS / "tool.txt").exists() else {}
    pin = tool["uv"].pin if tool else "uv"
    write("tool.txt", list(resolve(uv, pin, hashes=True).values()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
