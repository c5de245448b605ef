"""The catalogue: complete, closed, and documented by a generated AsyncAPI file."""

import importlib
import json
import pkgutil
from pathlib import Path

import msgspec
import pytest

import schemas
from schemas import Lane, asyncapi

DURABLE = {
    "feedback.given", "feedback.judged", "generation.observed", "dissonance.detected",
    "learning.batch_queued", "learning.batch_rejected", "training.requested", "training.rejected",
    "skill.published", "skill.fetched", "skill.installed", "skill.rejected", "skill.retire",
    "skill.retired", "skill.pin", "domain.forget", "domain.forgotten",
}  # fmt: skip
LIVE = {
    "encode.requested", "encode.assigned", "encode.completed", "encode.finished", "encode.failed",
    "event.refused", "training.progressed", "skill.list_requested", "skill.listed",
    "skill.discovered", "skill.wanted", "skill.unavailable", "adapter.load", "adapter.unload",
    "adapter.loaded", "adapter.unloaded", "adapter.failed", "peer.joined", "peer.left",
    "fleet.heartbeat", "fleet.stop",
}  # fmt: skip
ADDRESSED = {
    "encode.assigned", "encode.completed", "encode.finished", "encode.failed", "event.refused",
    "skill.listed", "adapter.load", "adapter.unload",
}  # fmt: skip


def test_the_catalogue_is_the_contract():
    kinds = schemas.catalogue()
    assert set(kinds) == DURABLE | LIVE
    assert {name for name, kind in kinds.items() if kind.lane is Lane.DURABLE} == DURABLE
    assert {name for name, kind in kinds.items() if kind.addressed} == ADDRESSED


def test_every_type_is_frozen_and_documented():
    for kind in schemas.catalogue().values():
        assert kind.__struct_config__.frozen
        assert kind.__doc__


def test_no_event_names_a_path():
    for name, kind in schemas.catalogue().items():
        fields = {field.name for field in msgspec.structs.fields(kind)}
        assert not fields & {"path", "file", "folder", "filename"}, name


def test_the_asyncapi_file_is_the_generated_one():
    written = Path(schemas.__file__).with_name("asyncapi.json").read_text(encoding="utf-8")
    assert written == asyncapi.render(), "run `python -m schemas`"


def test_the_asyncapi_document_holds_together():
    document = asyncapi.document()
    text = json.dumps(document)
    for name, kind in schemas.catalogue().items():
        channel = document["channels"][name.replace(".", "_")]
        assert channel["address"].startswith(name)
        assert ("parameters" in channel) is kind.addressed

    def resolve(pointer):
        node = document
        for part in pointer.removeprefix("#/").split("/"):
            node = node[part]
        return node

    pointers = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    assert pointers
    for pointer in pointers:
        assert resolve(pointer) is not None


def test_an_unlisted_public_name_is_an_error():
    for info in pkgutil.iter_modules(schemas.__path__):
        if info.name == "__main__":
            continue
        module = importlib.import_module(f"schemas.{info.name}")
        own = {
            name
            for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__
        }
        assert own <= set(module.__all__), module.__name__
    for name in schemas.__all__:
        assert getattr(schemas, name) is not None


@pytest.mark.parametrize(
    ("rouge", "entropy", "holds"),
    [
        (0.71, -0.11, True),
        (0.7, -0.11, False),
        (0.71, -0.1, False),
        (1.0, 0.5, False),
        (0.0, -1.0, False),
    ],
)
def test_the_breakthrough_rule_is_strict_at_its_boundaries(rouge, entropy, holds):
    assert schemas.LearningEvent.check_breakthrough(rouge, entropy) is holds
