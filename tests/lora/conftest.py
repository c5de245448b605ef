"""The real default model, once a session, and a tiny random one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_server import ObjectServer


@pytest.fixture(scope="session")
def shared_engine():
    from lora import ArrowEngine

    return ArrowEngine(device="cpu")


@pytest.fixture
def engine(shared_engine) -> Iterator:
    """The default model with no card in it, before and after."""
    yield shared_engine
    for card in shared_engine.list_loras():
        shared_engine.remove_lora(card)
    for card in shared_engine.manager.list_cards():
        shared_engine.evict(card)


@pytest.fixture
def tiny(tiny_folder: Path):
    from lora import ArrowEngine

    return ArrowEngine(tiny_folder, device="cpu")


@pytest.fixture(params=["s3", "gs"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    """An object store with an empty bucket, of each protocol."""
    started: ObjectServer = request.getfixturevalue(request.param)
    return started
