"""What the page is tested with is what the API says."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from services.runtime.fleet_view_status import Status
from tests.services.api.page import canned


@pytest.mark.parametrize("made", [canned.empty, canned.learning, canned.after])
def test_the_canned_states_are_statuses(made: Callable[[], Any]) -> None:
    status = made()

    told = msgspec.json.encode(msgspec.convert(status, Status))
    assert msgspec.json.decode(told) == status
