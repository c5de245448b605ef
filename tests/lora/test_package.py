"""The package's face: what it exports, and that looking at it costs no torch."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import lora
from lora import errors

TORCH_FREE = [
    "lora",
    "lora.adapter",
    "lora.batching",
    "lora.card",
    "lora.commands",
    "lora.config",
    "lora.errors",
    "lora.extraction",
    "lora.head",
    "lora.interop",
    "lora.layout",
    "lora.leases",
    "lora.lowrank",
    "lora.matching",
    "lora.model",
    "lora.object_errors",
    "lora.object_place",
    "lora.objects",
    "lora.probing",
    "lora.ranks",
    "lora.remote_store",
    "lora.residency",
    "lora.router",
    "lora.store",
    "lora.tensors",
]


def test_what_needs_no_torch_loads_none() -> None:
    script = f"""
import sys
for name in {TORCH_FREE}:
    __import__(name)
from lora import Adapter, BaseModel, CardStore, LoRACard, LoRAConfig, LoRAFormat, LoRARouter, bend
from lora.model import find_model
find_model()
heavy = {{"torch", "transformers", "sentence_transformers", "peft"}} & set(sys.modules)
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*TORCH_FREE, "lora.encoder", "lora.engine", "lora.layer"])
def test_exports_are_sorted_and_there(name: str) -> None:
    module = importlib.import_module(name)
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    assert all(
        hasattr(module, one)
        for one in exported
        if one != "LoRATrainer" or importlib.util.find_spec("lora.training.trainer")
    )
    defined = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    assert defined <= set(exported)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lora.nothing
    assert set(lora.__all__) <= set(dir(lora))


def test_every_error_is_in_the_tree_that_is_drawn() -> None:
    for name in errors.__all__:
        one = getattr(errors, name)
        assert issubclass(one, errors.LoRAError)
        assert name in errors.__doc__
