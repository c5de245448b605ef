"""Gives a running fleet feedback from JSON lines on standard input.

    echo '{"query": "my card has not come", "relevant": ["card arrival"],
           "irrelevant": ["lost or stolen card"], "domain": "banking"}' | tr -d '\\n' |
    python docs/examples/publish_feedback.py ipc:///path/to/state/bus

A line may also say `served`: the digests of the cards that made the query's vector, as the answer
to the encode request names them; an empty list for the base model.
"""

import asyncio
import json
import sys

from bus import connect
from services.runtime.client import FleetClient


async def main(url: str) -> None:
    async with await connect(url, source="/feedback-publisher/1") as bus:
        client = FleetClient(bus)
        for line in sys.stdin:
            piece = json.loads(line)
            name = await client.feedback(
                piece["query"],
                piece["relevant"],
                piece.get("irrelevant", ()),
                domain=piece.get("domain"),
                served=piece.get("served"),
            )
            print(f"journaled as {name}", flush=True)


asyncio.run(main(sys.argv[1]))
