"""One API for each file of tests: starting it takes longer than asking it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.services.api.kit import Door, opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """The API that the tests of a file share; they ask for `door`."""
    async with opened(tmp_path_factory.mktemp("api"), max_inputs=200) as door:
        yield door


@pytest.fixture
def door(shared: Door) -> Door:
    """A running API with nothing behind it that an earlier test left."""
    shared.player.forget()
    return shared
