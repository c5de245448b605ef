"""Write the list of what a release is made of, in CycloneDX's form: `make sbom`.

python locks/sbom.py FILE

What the fleet needs to run, PyTorch among it, and nothing of tests or benchmarks: versions and
SHA-256 of each file from the lock files, licences and who needs whom from the distributions
installed here. The same sources give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parent
FILES = ("build.txt", "torch.txt", "torch-cpu.txt", "runtime.txt")


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def hashes() -> dict[str, list[str]]:
    """SHA-256 of each file of each distribution that a release is made of."""
    found: dict[str, list[str]] = {}
    for file in FILES:
        name = ""
        for line in (LOCKS / file).read_text("utf-8").splitlines():
            if "==" in line:
                name = normal(line.partition("==")[0])
                found.setdefault(name, [])
            elif "--hash=sha256:" in line:
                found[name].append(line.partition("sha256:")[2].rstrip(" \\"))
    return found


def narrowed(bill: dict[str, Any], known: Mapping[str, list[str]]) -> dict[str, Any]:
    """The bill of an environment without what is not in `known`, each with its files' SHA-256."""
    kept = [one for one in bill["components"] if normal(one["name"]) in known]
    for one in kept:
        one.pop("hashes", None)
        one["externalReferences"] = [
            {
                "type": "distribution",
                "url": one["purl"],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for digest in sorted(known[normal(one["name"])])
        ]
    root = bill["metadata"]["component"]["bom-ref"]
    there = {one["bom-ref"] for one in kept} | {root}
    needed = [one for one in bill["dependencies"] if one["ref"] in there]
    for one in needed:
        if "dependsOn" in one:
            one["dependsOn"] = [ref for ref in one["dependsOn"] if ref in there]
    return {**bill, "components": kept, "dependencies": needed}


def main(target: Path) -> None:
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--no-validate", sys.prefix]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    known = hashes()
    bill = narrowed(json.loads(done.stdout), known)
    lacking = known.keys() - {normal(one["name"]) for one in bill["components"]}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill, indent=2) + "\n", "utf-8")
    print(f"{target}: {len(bill['components'])} distributions, each with its files' SHA-256")
    if lacking:
        print(f"not on this platform, hence not listed: {', '.join(sorted(lacking))}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
