"""Two fleets on one machine: a skill that one has learned answers the other's next request."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from bus import Bus
from lora.card import LoRACard
from schemas import SkillDiscovered
from services.federation import trust
from services.federation.identity import NodeKey
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head, install

QUERIES = ("the flux capacitor hums", "how do I calm the flux capacitor?", "flux capacitor too hot")


def config(node: str) -> str:
    return f"""
[fleet]
workers = 1
[encoder]
threads = 1
[router]
peer_timeout = 10.0
[federation]
enabled = true
node = "{node}"
sync_interval = 0.5
repeat = 1.0
"""


def key_of(fleet: harness.Fleet) -> str:
    return NodeKey.load_or_create(fleet.state / "keys" / "node.key").public


async def learned(client: FleetClient, name: str, seed: int) -> LoRACard:
    """A card that is routed to for `QUERIES`."""
    points = (await client.encode(QUERIES, route="base")).vectors
    return replace(head(name, seed), prototypes=np.ascontiguousarray(points), threshold=0.6)


async def offered(bus: Bus, digest: str) -> None:
    async with asyncio.timeout(30), bus.watch((SkillDiscovered,)) as events:
        async for event in events:
            if event.data.card.digest == digest:
                return


@pytest.mark.timeout(120)
async def test_a_skill_that_only_a_peer_has_answers_the_first_query_that_needs_it(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        alpha, beta = (_fleet(stack, tmp_path, node) for node in ("alpha", "beta"))
        trust.add(beta.state / "keys" / "trusted", key_of(alpha), "alpha")
        async with alpha.bus() as alphas, beta.bus() as betas:
            here, there = FleetClient(betas), FleetClient(alphas)
            routed = await install(alphas, alpha, await learned(there, "flux", 1))
            named = await install(alphas, alpha, head("named", 2))
            await offered(betas, routed.key)
            await offered(betas, named.key)

            first = await here.encode(QUERIES[:1], route="auto")
            by_name = await here.encode(["anything"], skills=["alpha/named"])
            same = await there.encode(QUERIES[:1], skills=["flux"])

            assert [skill.digest for skill in first.rows[0].skills] == [routed.key]
            assert [skill.digest for skill in by_name.rows[0].skills] == [named.key]
            np.testing.assert_allclose(first.vectors, same.vectors, atol=1e-5)

            _kill(alpha)
            for route in ({"route": "auto"}, {"skills": ["alpha/flux"]}, {"skills": ["flux"]}):
                again = await here.encode(QUERIES[:1], **route)
                assert [skill.digest for skill in again.rows[0].skills] == [routed.key]


def _fleet(stack: ExitStack, folder: Path, node: str) -> harness.Fleet:
    (folder / node).mkdir()
    return stack.enter_context(
        harness.running(folder / node, config=config(node), learns=False, covers=False)
    )


def _kill(fleet: harness.Fleet) -> None:
    """The gateway and its supervisor's chance to start it again."""
    for process in psutil.Process(fleet.process.pid).children(recursive=True):
        if "services.federation" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)
