"""docs/how-to/kubernetes.md speaks of the workloads, Secrets, figures and files that there are."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from tests.containers.cluster import (
    DEPLOY,
    FLEET,
    OVERLAYS,
    named,
    of_kind,
    quantity,
    secrets,
    workloads,
)
from tests.containers.kustomize import resources
from tests.docs.snippets import commands, of_text

PAGE = DEPLOY.parents[1] / "docs" / "how-to" / "kubernetes.md"
TEXT = PAGE.read_text("utf-8")
SNIPPETS = list(of_text(PAGE, TEXT))
KUBECTL = [
    words
    for snippet in SNIPPETS
    if snippet.kind == "console"
    for words in commands(snippet)
    if words[0] == "kubectl"
]

pytestmark = pytest.mark.docs


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("overlay", ["overlays/in-cluster-nats", "base"])
def test_the_overlay_that_is_shown_can_be_put_together(tmp_path: Path, overlay: str) -> None:
    whole, part = [snippet.body for snippet in SNIPPETS if snippet.kind == "yaml"]
    text = whole.replace("overlays/in-cluster-nats", overlay) + (part if overlay == "base" else "")
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "deploy").symlink_to(DEPLOY.parent)
    (mine / "kustomization.yaml").write_text(text, "utf-8")
    (mine / "settings.toml").write_text("[store]\n", "utf-8")

    made = resources(mine)

    images = {one["image"] for who in workloads(made).values() for one in who.containers}
    assert "registry.example.org/consonance:0.1.0" in images
    assert named(made, "ConfigMap", "consonance-settings")["data"] == {"settings.toml": "[store]\n"}
    bus = named(made, "ConfigMap", "consonance-environment")["data"]["CONSONANCE_BUS"]
    assert ("nats-1.example.org" in bus) == (overlay == "base")


def test_the_secrets_that_are_made_have_what_the_pods_look_for() -> None:
    made = {
        words[4]: words[5:] for words in KUBECTL if words[1:4] == ["create", "secret", "generic"]
    }
    example = secrets()
    assert set(made) == set(example) - {"consonance-teacher"}, "which is optional"
    for name, words in made.items():
        given = {
            word.partition("=")[2].partition("=")[0]
            for word in words
            if word.startswith("--from-literal=")
        }
        files = [Path(word.partition("=")[2]).name for word in words if "--from-file=" in word]
        assert given == set(example[name]) or files, name
    assert set(example["consonance-api"]) == {"api.json"}


def test_what_is_asked_of_the_cluster_is_in_its_namespace_and_there() -> None:
    found = OVERLAYS["overlays/in-cluster-nats"]
    inline = re.findall(r"`(kubectl [^`]+)`", TEXT)
    asked = [*KUBECTL, *(line.split() for line in inline)]
    for words in asked:
        if "--namespace" in words:
            assert words[words.index("--namespace") + 1] == "consonance"
        for word in words:
            kind, slash, name = word.partition("/")
            if slash and kind in ("deployment", "statefulset", "service"):
                kinds = {"deployment": "Deployment", "statefulset": "StatefulSet"}
                assert named(found, kinds.get(kind, "Service"), name)


def test_the_table_has_every_workload_with_its_kind_and_number() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| (\w+) \|", section("What runs"), re.M)
    made = workloads(OVERLAYS["overlays/in-cluster-nats"])
    assert {name for name, _, _ in rows} == set(made)
    (scaler,) = of_kind(OVERLAYS["base"], "HorizontalPodAutoscaler")
    for name, pods, kind in rows:
        assert made[name].raw["kind"] == kind
        least = made[name].raw["spec"].get("replicas", scaler["spec"]["minReplicas"])
        assert pods.startswith("none" if least == 0 else str(least))
    assert f"2 to {scaler['spec']['maxReplicas']}" in section("What runs")
    target = scaler["spec"]["metrics"][0]["external"]["target"]["averageValue"]
    assert f"The target is {target}." in TEXT


def test_the_sizes_follow_from_what_was_measured_and_what_pods_ask_for() -> None:
    asked = {name: one.main["resources"]["requests"] for name, one in FLEET.items()}
    nats = workloads(OVERLAYS["overlays/in-cluster-nats"])["nats"].main["resources"]["requests"]
    single = {"adapter_manager", "dissonance_monitor", "distiller", "factory"}
    rows = re.findall(
        r"^\| up to ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| (\d+) GiB \|", TEXT, re.M
    )
    assert len(rows) == 4
    for texts, encoders, routers, doors, cores, gib in rows:
        pods = {"encoder": int(encoders), "router": int(routers), "api": int(doors)}
        assert pods["encoder"] == math.ceil(int(texts.replace(",", "")) / (0.6 * 380)) + 1
        pods |= dict.fromkeys(single, 1)

        def total(what: str, pods: dict[str, int] = pods) -> float:
            ours = sum(number * quantity(asked[name][what]) for name, number in pods.items())
            return ours + 3 * quantity(nats[what])

        assert abs(total("cpu") - float(cores)) < 0.6
        assert math.ceil(total("memory") / 2**30) == int(gib)


def test_the_memory_that_is_told_is_what_pods_ask_for() -> None:
    rows = re.findall(
        r"^\| ((?:`[\w-]+`(?:, )?)+) \| .* \| (.*) \| (.*) \|$", section("Sizes"), re.M
    )
    made = workloads(OVERLAYS["overlays/in-cluster-nats"])
    told = set()
    for names, request, limit in rows:
        for name in re.findall(r"`([\w-]+)`", names):
            told.add(name)
            asked = made[name].main["resources"]
            own = re.search(rf"{name.rpartition('-')[2]} ([\d.]+ \wiB)", limit)
            assert as_told(asked["requests"]["memory"]) == request
            assert as_told(asked["limits"]["memory"]) == (
                own[1] if own else limit[: limit.index("B") + 1]
            )
    assert told == set(made)


def as_told(text: str) -> str:
    return re.sub(r"([MG]i)$", r" \1B", text)


def test_the_files_that_are_named_are_there() -> None:
    for name in re.findall(r"`(base|overlays/[\w-]+|[\w-]+\.(?:yaml|env))`", TEXT):
        assert [*DEPLOY.rglob(name)], name
    assert yaml.safe_load((DEPLOY / "prometheus.yaml").read_text("utf-8"))["externalRules"]
