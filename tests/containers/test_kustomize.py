"""The resolver does what kustomize does, or says that it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.cluster import DEPLOY, workloads
from tests.containers.kustomize import resources


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"namePrefix": "x-"}, "not understood: namePrefix"),
        ({"images": [{"name": "nobody", "newTag": "1"}]}, "nothing uses the image nobody"),
        ({"patches": [{"path": "p", "target": {"kind": "Pod"}}]}, "p patches nothing"),
        ({"configMapGenerator": [{"name": "m", "behavior": "merge"}]}, "cannot merge"),
        ({"resources": ["a.yaml", "a.yaml"]}, "twice"),
    ],
    ids=["field", "image", "patch", "merge", "twice"],
)
def test_what_the_resolver_would_not_do_as_kustomize_does_is_refused(
    tmp_path: Path, asked: dict[str, Any], why: str
) -> None:
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
    (tmp_path / "a.yaml").write_text(json.dumps(one), "utf-8")
    (tmp_path / "p").write_text("[]", "utf-8")
    whole = {"namespace": "n", "resources": ["a.yaml"], **asked}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(whole), "utf-8")
    with pytest.raises(ValueError, match=why):
        resources(tmp_path)


def test_an_overlay_asks_for_the_gateway_by_a_number(tmp_path: Path) -> None:
    overlay = {
        "namespace": "n",
        "resources": ["base"],
        "replicas": [{"name": "federation", "count": 1}],
    }
    (tmp_path / "base").symlink_to(DEPLOY / "base")
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay), "utf-8")
    assert workloads(resources(tmp_path))["federation"].raw["spec"]["replicas"] == 1


def test_a_patch_adds_replaces_and_removes_where_it_says(tmp_path: Path) -> None:
    one = {
        "kind": "ConfigMap",
        "metadata": {"name": "a"},
        "data": {"x/y": "1", "old": "2"},
        "l": [1],
    }
    operations = [
        {"op": "replace", "path": "/data/x~1y", "value": "3"},
        {"op": "remove", "path": "/data/old"},
        {"op": "add", "path": "/l/-", "value": 2},
        {"op": "add", "path": "/l/0", "value": 0},
    ]
    (tmp_path / "a.yaml").write_text(json.dumps(one), "utf-8")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(operations), "utf-8")
    asked = {
        "namespace": "n",
        "resources": ["a.yaml"],
        "patches": [{"path": "p.yaml", "target": {"kind": "(Pod|ConfigMap)"}}],
        "configMapGenerator": [{"name": "a", "behavior": "merge", "literals": ["b=c=d"]}],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(asked), "utf-8")

    (made,) = resources(tmp_path)

    assert made["data"] == {"x/y": "3", "b": "c=d"}
    assert made["l"] == [0, 1, 2]
    assert made["metadata"]["namespace"] == "n"
