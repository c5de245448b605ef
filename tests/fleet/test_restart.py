"""What was learnt yesterday serves today, and a fleet alone owns its state folder."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head, install


def start_another(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, harness.ROOT / "run_all.py", "--state", state],
        env=harness.environment(covers=False),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(180)
async def test_state_survives_a_restart(short_path: Path) -> None:
    with harness.running(short_path, "--workers", "1", learns=False, covers=False) as fleet:
        async with fleet.bus() as bus:
            card = await install(bus, fleet, head("lasting", 3))
            before = await FleetClient(bus).encode(["a text"], skills=["lasting"])
        second = await asyncio.to_thread(start_another, fleet.state)
        assert second.returncode == 2, "a second fleet on one state folder is refused"
        assert len(second.stderr.strip().splitlines()) == 1, second.stderr
    with harness.running(short_path, "--workers", "1", learns=False, covers=False) as fleet:
        async with fleet.client() as client:
            after = await client.encode(["a text"], skills=["lasting"])
            listed = {each.name: each.state for each in await client.skills()}
    assert after.rows[0].skills[0].digest == card.digest
    assert np.allclose(before.vectors, after.vectors, atol=1e-5)
    assert listed == {"lasting": "installed"}
