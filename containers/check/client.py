"""Runs inside a container, as `python -c`: asks the fleet for vectors over the bus as any client.

Standard input: `{"texts": [...], "encoders": N}`; standard output: the vectors' shape, and the
instances of N encoders, as JSON.
"""

import asyncio
import json
import sys

from bus import connect
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient


async def main() -> None:
    """Encode, then listen until all encoders were heard."""
    asked = json.loads(sys.stdin.read())
    encoders: set[str] = set()
    async with await connect(source="/check/1") as bus:
        answer = await FleetClient(bus).encode(asked["texts"])
        async with asyncio.timeout(20), bus.watch(FleetHeartbeat) as beats:
            while len(encoders) < asked["encoders"]:
                beat = (await beats.get()).data
                if beat.service == "encoder" and beat.state == "ready":
                    encoders.add(beat.instance)
    print(json.dumps({"shape": list(answer.vectors.shape), "encoders": sorted(encoders)}))


asyncio.run(main())
