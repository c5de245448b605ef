"""What comes from elsewhere is what was reviewed, and nothing of ours runs what it reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from locks.audit import UNKNOWN, verdict
from locks.renew import Locked, parsed
from locks.sbom import hashes, narrowed
from lora.card import BaseModel
from lora.errors import InteropError
from lora.interop import import_peft
from tests.unsafe_code import unsafe

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
LAYERS = ("build.txt", "torch.txt", "runtime.txt", "dev.txt", "bench.txt")
NOT_OURS = {".venv", "node_modules", "build", "dist", "site", "shared", "__pycache__"}
MAY = {
    ("tests/docs/test_instruments.py", "exec"): "runs the snippets of our own pages",
    ("tests/docs/test_pages.py", "exec"): "the same",
    ("tests/services/distiller/cloud/test_key.py", "pickle"): "proves that a key cannot be written",
}
"""What is allowed, by file and name, and why."""

SAFE = [
    "import torch\ntorch.load(p, weights_only=True)",
    "import numpy as np\nnp.load(p)",
    "import numpy as np\nnp.load(p, allow_pickle=False)",
    "import yaml\nyaml.safe_load(t)\nyaml.load(t, Loader=yaml.CSafeLoader)",
    "import hashlib\nhashlib.sha256(b)\nhashlib.new('sha256')",
    "import hashlib\nhashlib.md5(b, usedforsecurity=False)",
    "import subprocess\nsubprocess.run(['true'], shell=False)",
    "import ast\nast.literal_eval(t)\nmodel.eval()\nself.exec()",
    "# import pickle\n'torch.load(p)'\ndef eval_all(): ...",
    "from .pickle import jar",
]
UNSAFE = [
    ("import pickle", "pickle"),
    ("def f():\n    import cPickle as p", "cPickle"),
    ("from pickle import loads", "pickle"),
    ("from joblib.externals import cloudpickle", "joblib.externals.cloudpickle"),
    ("from six.moves import cPickle", "six.moves.cPickle"),
    ("import importlib as i\ni.import_module('dill')", "dill"),
    ("__import__('marshal')", "marshal"),
    ("import shelve", "shelve"),
    ("import torch\ntorch.load(p)", "torch.load"),
    ("import torch\ntorch.load(p, weights_only=False)", "torch.load"),
    ("import torch\ntorch.load(p, weights_only=how)", "torch.load"),
    ("import torch\ntorch.load(p, **how)", "torch.load"),
    ("import torch as t\nt.load(p)", "torch.load"),
    ("from torch import load as read\nread(p)", "torch.load"),
    ("import torch\nread = torch.load", "torch.load"),
    ("import torch.hub\ntorch.hub.load(a, b)", "torch.hub.load"),
    ("import numpy as np\nnp.load(p, allow_pickle=True)", "numpy.load"),
    ("import numpy as np\nnp.load(p, allow_pickle=x)", "numpy.load"),
    ("eval(t)", "eval"),
    ("import builtins\nbuiltins.exec(t)", "exec"),
    ("list(map(eval, t))", "eval"),
    ("import os\nos.system(c)", "os.system"),
    ("from os import popen\npopen(c)", "os.popen"),
    ("import subprocess\nsubprocess.run(c, shell=True)", "shell"),
    ("anything(c, shell=x)", "shell"),
    (
        "import asyncio\nasyncio.create_subprocess_shell(c)",
        "asyncio.create_subprocess_shell",
    ),
    ("import yaml\nyaml.load(t)", "yaml.load"),
    ("import yaml\nyaml.load(t, Loader=yaml.Loader)", "yaml.load"),
    ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
    ("import hashlib\nhashlib.md5(b)", "hashlib.md5"),
    ("import hashlib\nhashlib.new('SHA1', b)", "hashlib.sha1"),
    ("socket.recv_pyobj()", "recv_pyobj"),
    ("from os import *", "os.*"),
    ("load(name, trust_remote_code=True)", "trust_remote_code"),
    ("import ssl\nssl._create_unverified_context()", "ssl._create_unverified_context"),
]


def sources() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and name[0] != "."]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def lock(name: str) -> dict[str, Locked]:
    return parsed((LOCKS / name).read_text("utf-8"))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    split = [line.partition("==") for line in lines if line and line[0] != "#"]
    return {canonicalize_name(name): version for name, _, version in split}


@pytest.mark.parametrize("source", SAFE, ids=range(len(SAFE)))
def test_what_is_harmless_is_not_found(source: str) -> None:
    assert unsafe(source) == []


@pytest.mark.parametrize(("source", "what"), UNSAFE, ids=range(len(UNSAFE)))
def test_what_runs_what_it_reads_is_found_however_it_is_written(source: str, what: str) -> None:
    assert what in [find.what for find in unsafe(source)]


def test_no_python_of_ours_runs_what_it_reads() -> None:
    seen, found = 0, {}
    for path in sources():
        seen += 1
        name = path.relative_to(ROOT).as_posix()
        for find in unsafe(path.read_text("utf-8"), name):
            found[name, find.what] = f"{name}:{find.line}: {find.what} {find.why}"

    assert seen > 500, "the project was not found"
    assert not [said for key, said in found.items() if key not in MAY]
    assert not MAY.keys() - found.keys(), "what is allowed is no longer there"


def test_every_distribution_stands_in_one_lock_with_the_bytes_it_may_have() -> None:
    files = sorted(path.name for path in LOCKS.glob("*.txt"))
    assert files == sorted([*LAYERS, "cuda.txt", "torch-cpu.txt", "tool.txt"])
    for file in files:
        for locked in lock(file).values():
            assert re.fullmatch(r"[\w.-]+==[\w.+]+", locked.pin), locked.pin
            assert locked.hashes, f"{locked.pin} may be anything"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in locked.hashes)
    named = [name for file in (*LAYERS, "cuda.txt") for name in lock(file)]
    assert len(named) == len(set(named))


def test_the_locks_have_the_versions_of_the_constraints_and_all_of_them() -> None:
    locked = {name: one.pin for file in LAYERS for name, one in lock(file).items()}
    versions = {name: pin.partition("==")[2] for name, pin in locked.items()}
    pinned = pins()

    foreign = {name for file in LAYERS for name, one in lock(file).items() if one.marker}
    assert {name: versions[name] for name in pinned} == pinned, "run `make lock`"
    assert versions.keys() - pinned.keys() <= foreign, (
        "what stands elsewhere alone, on every platform"
    )
    assert lock("torch-cpu.txt")["torch"].pin == f"{lock('torch.txt')['torch'].pin}+cpu"


def test_what_the_project_asks_for_is_locked_where_it_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"test", "bench", "nats", "traces", "dev", "docs"}
    known = lock("torch.txt") | lock("build.txt")
    for file, wanted in (
        ("runtime.txt", [*project["dependencies"], *extras["nats"]]),  # the image is of it
        ("dev.txt", [one for extra in extras if extra != "bench" for one in extras[extra]]),
        ("bench.txt", extras["bench"]),
    ):
        known |= lock(file)
        for text in wanted:
            asked = Requirement(text)
            version = known[canonicalize_name(asked.name)].pin.partition("==")[2]
            assert asked.specifier.contains(version), f"{text}, but {version} is locked"


def test_nothing_is_installed_unlocked() -> None:
    """The development environment and the image are made of the lock files, hashes and all."""
    for file in ("Makefile", "Dockerfile"):
        text = (ROOT / file).read_text("utf-8").replace("\\\n", " ")
        flags = re.search(r"LOCKED\b.*", text)
        assert flags
        assert {"--require-hashes", "--no-deps"} <= set(re.findall(r"--[\w-]+", flags[0]))
        installs = re.findall(r"(?:\$\(PIP\)|pip install) [^|;&\n]*", text)
        assert len(installs) > 3
        for words in installs:
            whole = "--require-hashes" in words or "LOCKED" in words
            assert whole or "--no-index" in words, f"{file}: {words}"
            assert "-r locks/" in words or "--no-index" in words, f"{file}: {words}"


def test_a_model_s_pickle_is_read_in_one_place_alone_and_there_as_numbers_only() -> None:
    """Safetensors and Arrow are numbers; old models are read with `weights_only`, by one module."""
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if "tests" not in path.parts and "torch.load(" in path.read_text("utf-8")
    ]

    assert readers == ["lora/checkpoint.py"]


def test_an_adapter_in_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")

    with pytest.raises(InteropError, match=r"adapter_model\.bin is a pickle, .*safetensors"):
        import_peft(tmp_path, name="x", base_model=BaseModel("m", "0" * 64), dim=384)


def one(name: str, *holes: str, **more: object) -> dict[str, object]:
    found = [{"id": hole, "fix_versions": ["2"]} for hole in holes]
    return {"name": name, "version": "1", "vulns": found, **more}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([one("a"), one("b")], 0, "2 distributions audited, 0 known holes"),
        ([one("a", "CVE-1"), one("b")], 1, "a 1: CVE-1, mended in 2"),
        ([one("a"), {"name": "b", "skip_reason": "not found"}], UNKNOWN, "NOT KNOWN .*: b"),
        ([one("a", "CVE-1"), {"name": "b", "skip_reason": "no"}], 1, "NOT KNOWN .*: b"),
        ([{"name": "b", "skip_reason": "not found"}], UNKNOWN, "NOT AUDITED: .* knows none of 1"),
        ([], UNKNOWN, "0 distributions"),
    ],
    ids=["clean", "hole", "unknown", "both", "none known", "nothing"],
)
def test_an_audit_that_asked_nobody_is_no_success(
    dependencies: list[dict[str, object]], code: int, said: str
) -> None:
    ended, lines = verdict({"dependencies": dependencies})

    assert ended == code
    assert re.search(said, "\n".join(lines))


@pytest.mark.parametrize(
    ("stand_in", "code", "said"),
    [
        ("import sys; sys.exit('ERROR: no route to the database')", UNKNOWN, "no route to the dat"),
        ("raise SystemExit(1)", UNKNOWN, "pip-audit ended with 1"),
        ("print('{}')", UNKNOWN, "pip-audit ended with 0"),
        (f"print({json.dumps({'dependencies': [one('a')]})!r})", 0, "0 known holes"),
    ],
    ids=["not reached", "no word", "no report", "reached"],
)
def test_the_audit_says_plainly_where_the_database_was_not_reached(
    tmp_path: Path, stand_in: str, code: int, said: str
) -> None:
    (tmp_path / "pip_audit.py").write_text(stand_in)

    done = subprocess.run(
        [sys.executable, LOCKS / "audit.py"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert ("NOT AUDITED: the database of known holes was not reached" in done.stderr) == bool(code)


def test_the_bill_has_what_a_release_is_made_of_with_its_bytes_and_nothing_else() -> None:
    bill = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [
            {"bom-ref": name, "name": name, "version": "1", "purl": f"pkg:pypi/{name}@1"}
            for name in ("torch", "PyYAML", "pytest")
        ],
        "dependencies": [{"ref": "root", "dependsOn": ["torch", "pytest"]}, {"ref": "pytest"}],
    }

    known = hashes()
    narrow = narrowed(bill, known)

    assert set(known) == {
        name for file in ("build.txt", "torch.txt", "runtime.txt") for name in lock(file)
    }
    assert [one["name"] for one in narrow["components"]] == ["torch", "PyYAML"]
    digests = {one["hashes"][0]["content"] for one in narrow["components"][0]["externalReferences"]}
    assert {f"sha256:{digest}" for digest in digests} == {
        *lock("torch.txt")["torch"].hashes,
        *lock("torch-cpu.txt")["torch"].hashes,
    }
    assert narrow["dependencies"] == [{"ref": "root", "dependsOn": ["torch"]}]


@pytest.mark.docs
def test_the_proof_that_the_threat_model_names_is_there() -> None:
    named = re.findall(
        r"`(tests/[\w/*]+\.py)(?:::(\w+))?`", (ROOT / "docs/security.md").read_text("utf-8")
    )

    assert len(named) > 15
    for file, function in named:
        found = "".join(path.read_text("utf-8") for path in ROOT.glob(file))
        assert f"def {function or 'test_'}" in found, f"there is no {file}::{function}"
