"""A Qdrant collection that is filled once and found better in as the fleet learns.

    python qdrant_store.py fill ipc:///path/to/state/bus ./store < passages.txt
    python qdrant_store.py search ipc:///path/to/state/bus ./store "the flumox went wrong"
    python qdrant_store.py search ipc:///path/to/state/bus ./store "the flumox went wrong" shop

The last word is a skill by name; without it the fleet decides by what the query is about, and
`base` asks for none. Needs qdrant-client; a server's URL does in place of the folder.
"""

import asyncio
import sys

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from bus import connect
from services.runtime.client import FleetClient

COLLECTION = "passages"


async def fill(bus: str, folder: str, passages: list[str]) -> None:
    async with await connect(bus, source="/qdrant-store/1") as connection:
        # Documents get base vectors, whatever is learned later: that is why they stay valid.
        made = await FleetClient(connection).encode(passages, role="document", route="base")
    store = QdrantClient(path=folder)
    store.create_collection(
        COLLECTION,
        vectors_config=VectorParams(size=made.vectors.shape[1], distance=Distance.COSINE),
    )
    store.upsert(
        COLLECTION,
        [
            PointStruct(id=number, vector=vector.tolist(), payload={"text": text})
            for number, (text, vector) in enumerate(zip(passages, made.vectors, strict=True))
        ],
    )
    store.close()
    print(f"{len(passages)} passages stored")


async def search(bus: str, folder: str, query: str, model: str = "auto") -> None:
    async with await connect(bus, source="/qdrant-store/1") as connection:
        client = FleetClient(connection)
        # A skill bends the query alone, towards where what it means lies already.
        if model in ("auto", "base"):
            asked = await client.encode([query], route=model)
        else:
            asked = await client.encode([query], skills=[model])
    store = QdrantClient(path=folder)
    found = store.query_points(COLLECTION, asked.vectors[0].tolist(), limit=3).points
    store.close()
    by = " + ".join(f"{skill.name}@{skill.version}" for skill in asked.rows[0].skills)
    print(f"asked by {by or 'the base model'}")
    for point in found:
        print(f"{point.score:.3f}  {(point.payload or {})['text']}")


if sys.argv[1] == "fill":
    lines = [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(fill(sys.argv[2], sys.argv[3], lines))
else:
    asyncio.run(search(*sys.argv[2:]))
