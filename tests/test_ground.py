"""The ground: pins, import directions, file sizes, links, and what coverage can see."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "bus", "lora", "services")
MAY_IMPORT = {
    "schemas": {"msgspec"},
    "bus": {"schemas"},
    "lora": set(),
    "services": {"schemas", "bus", "lora"},
}
FOLDERS = [folder for folder in (ROOT / name for name in PACKAGES) if folder.is_dir()]
TORCH = {"torch", "sentence_transformers", "transformers", "peft"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of every absolute import in a file, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def normalised(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def test_every_declared_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = set(map(normalised, project["dependencies"]))
    for extra in project["optional-dependencies"].values():
        declared.update(map(normalised, extra))
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), "local builds pin nothing"
    assert declared <= set(map(normalised, pins))
    assert "torch==2.13.0" in pins


@pytest.mark.parametrize("package", [folder.name for folder in FOLDERS])
def test_packages_import_in_one_direction_only(package: str) -> None:
    known = {*PACKAGES, "tests", "benchmarks", "demo", "containers"}
    for path in sources(package):
        roots = {name.split(".")[0] for name in imports(path)}
        wrong = (roots & known) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"
        if package == "schemas":
            foreign = roots - set(sys.stdlib_module_names) - {"schemas", "msgspec"}
            assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_no_service_imports_another_one() -> None:
    shared = {"errors", "runtime"}
    # The command is no process of the fleet: it offers what these have as commands and key files.
    offered = {"command": {"api", "federation", "fleet"}}
    for path in sources("services"):
        parts = path.relative_to(ROOT / "services").parts
        own = parts[0].removesuffix(".py")
        for name in imports(path):
            root, _, rest = name.partition(".")
            if root != "services" or not rest:
                continue
            other = rest.split(".")[0]
            allowed = shared | {own} | offered.get(own, set())
            assert other in allowed, f"{path.relative_to(ROOT)} imports services.{other}"


def test_bus_transport_stays_inside_the_bus() -> None:
    for path in sources("lora", "services"):
        assert not {name for name in imports(path) if name.split(".")[0] == "zmq"}, path


def test_torch_is_loaded_by_the_encoder_and_the_training_child_alone() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources("schemas", "bus", "services")
        if path.name not in {"__main__.py", "child.py"} and "encoder" not in path.parts
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"print(sorted({TORCH!r} & set(sys.modules)))\n"
    )

    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == "[]"


def test_no_file_is_too_long_to_be_read() -> None:
    folders = (*PACKAGES, "tests", "benchmarks", "demo", "containers")
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources(*folders)
        if (lines := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert not long


def test_every_module_of_the_packages_says_what_it_is() -> None:
    for path in sources(*PACKAGES):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


@pytest.mark.docs
def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_lines_run_in_a_subprocess_count_even_when_it_is_terminated(tmp_path: Path) -> None:
    """The rule of ninety per cent rests on it: the fleet ends its processes with SIGTERM."""
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    body = settings[
        settings.index("[tool.coverage.run]") : settings.index("[tool.coverage.report]")
    ]
    (tmp_path / "pyproject.toml").write_text(re.sub(r"source = .*", 'source = ["."]', body))
    (tmp_path / "child.py").write_text(
        "import time\ndef work():\n    print('ready', flush=True); time.sleep(50)\nwork()\n"
    )
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, 'child.py'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "child.terminate()\n"
        "child.wait()\n"
        "child.stdout.close()\n"
    )

    def coverage(*words: str) -> str:
        command = [sys.executable, "-m", "coverage", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    coverage("run", "parent.py")
    coverage("combine")
    report = coverage("report", "--show-missing")

    assert re.search(r"child\.py\s+4\s+0\s+100%", report), report
