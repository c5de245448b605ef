"""The Dockerfile and .dockerignore, as far as they can be read without building."""

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from containers.check.image import base_name, pip_for_the_build

ROOT = Path(__file__).resolve().parents[2]


class Step(NamedTuple):
    """An instruction, its continued lines joined."""

    name: str
    text: str


def steps() -> list[Step]:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    joined = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found = re.sub(r"\\\n\s*", " ", joined).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in found if line.strip()]


STEPS = steps()
STAGES = [number for number, step in enumerate(STEPS) if step.name == "FROM"]
LAST = STEPS[STAGES[-1] :]
IGNORE = (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def copied_from_here() -> list[str]:
    copies = [step.text.split() for step in STEPS if step.name == "COPY"]
    return [word for words in copies if "--from=build" not in words for word in words[:-1]]


def test_the_image_is_built_in_stages_on_one_base_pinned_by_an_argument() -> None:
    bases = {STEPS[number].text.split()[0] for number in STAGES}
    assert len(STAGES) == 2
    assert bases == {"docker.io/library/debian:${DEBIAN}"}
    assert re.fullmatch(r"docker\.io/library/debian:[a-z]+(-\d+)?-slim", base_name())


def test_the_image_runs_as_nobody_special_and_in_the_state_folder() -> None:
    users = [step.text for step in LAST if step.name == "USER"]
    assert users == ["10001:10001"]  # by number: an engine can tell that it is not root
    # A new volume takes this folder's owner and mode. Told to be a volume itself, it would be one
    # more of those without a name wherever somebody mounts nothing.
    prepared = "install --directory --owner=consonance --group=consonance --mode=0700"
    assert any(f"{prepared} /var/lib/consonance" in step.text for step in LAST)
    assert not [step for step in LAST if step.name == "VOLUME"]
    assert LAST[-1].name == "CMD"


def test_nothing_of_the_build_but_its_result_reaches_the_image() -> None:
    assert [step.text for step in LAST if step.name == "COPY"] == [
        "--from=build /opt/consonance /opt/consonance"
    ]
    assert not any("pip" in step.text for step in LAST)


def test_all_that_is_installed_is_pinned() -> None:
    installs = [
        part
        for step in STEPS
        if step.name == "RUN"
        for part in step.text.split("&&")
        if "pip install" in part
    ]
    assert len(installs) == 4
    for part in installs:
        assert "$LOCKED" in part or "--no-index" in part, part
    locked = next(step.text for step in STEPS if step.text.startswith("LOCKED="))
    assert "--require-hashes" in locked


def test_torch_comes_from_its_own_index_without_cuda_by_default() -> None:
    arguments = [step.text for step in STEPS if step.name == "ARG"]
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in arguments
    torch = next(step.text for step in STEPS if step.text.endswith("/torch-cpu.txt"))
    assert "$TORCH_INDEX" in torch
    assert torch.count("-r ") == 1
    assert any("torch.version.cuda" in step.text for step in STEPS)


@pytest.mark.parametrize("source", copied_from_here())
def test_what_is_copied_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in IGNORE


def test_everything_that_the_package_is_made_of_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*wheel, project["project"]["readme"], *project["project"]["license-files"]} <= set(
        copied_from_here()
    )


def test_what_is_not_named_is_ignored() -> None:
    rules = [line for line in IGNORE if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(
        copied_from_here()
    )
    assert any(fnmatch.fnmatch("bus/__pycache__", rule.replace("**", "*")) for rule in rules[1:])


def test_pips_own_settings_come_into_the_build_with_what_they_name(tmp_path: Path) -> None:
    wheels, index, bundle = tmp_path / "wheels", tmp_path / "index" / "simple", tmp_path / "ca.crt"
    for folder in (wheels, index):
        folder.mkdir(parents=True)
    bundle.touch()
    listed = (
        f":env:.cert='{bundle}'\n"
        ":env:.timeout='60'\n"
        f"global.find-links='{wheels} {tmp_path}/gone'\n"
        f"global.extra-index-url='file://{index} https://packages.example/simple'\n"
        "install.no-compile='true'"
    )

    file, mounts = pip_for_the_build(listed)

    assert file == (
        "[global]\n"
        "cert = /mnt/pip/0/ca.crt\n"
        "timeout = 60\n"
        f"find-links = /mnt/pip/1/wheels {tmp_path}/gone\n"
        "extra-index-url = file:///mnt/pip/2/simple https://packages.example/simple\n"
        "\n"
        "[install]\n"
        "no-compile = true\n"
    )
    assert mounts == [
        (str(tmp_path), "/mnt/pip/0"),
        (str(tmp_path), "/mnt/pip/1"),
        (str(tmp_path / "index"), "/mnt/pip/2"),
    ]
