"""A FAISS index that is filled once and found better in as the fleet learns.

    python faiss_index.py fill ipc:///path/to/state/bus ./index < passages.txt
    python faiss_index.py search ipc:///path/to/state/bus ./index "the flumox went wrong"
    python faiss_index.py search ipc:///path/to/state/bus ./index "the flumox went wrong" shop

The last word is a skill by name; without it the fleet decides by what the query is about, and
`base` asks for none. Needs faiss-cpu. The same holds for any other kind of FAISS index.
"""

import asyncio
import json
import sys
from pathlib import Path

import faiss

from bus import connect
from services.runtime.client import FleetClient


async def fill(bus: str, folder: Path, passages: list[str]) -> None:
    async with await connect(bus, source="/faiss-index/1") as connection:
        # Documents get base vectors, whatever is learned later: that is why they stay valid.
        made = await FleetClient(connection).encode(passages, role="document", route="base")
    faiss.normalize_L2(made.vectors)  # the inner product is the cosine then
    index = faiss.IndexFlatIP(made.vectors.shape[1])
    index.add(made.vectors)
    folder.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(folder / "passages.faiss"))
    (folder / "passages.json").write_text(json.dumps(passages))
    print(f"{len(passages)} passages stored")


async def search(bus: str, folder: Path, query: str, model: str = "auto") -> None:
    async with await connect(bus, source="/faiss-index/1") as connection:
        client = FleetClient(connection)
        # A skill bends the query alone, towards where what it means lies already.
        if model in ("auto", "base"):
            asked = await client.encode([query], route=model)
        else:
            asked = await client.encode([query], skills=[model])
    index = faiss.read_index(str(folder / "passages.faiss"))
    passages = json.loads((folder / "passages.json").read_text())
    faiss.normalize_L2(asked.vectors)
    scores, numbers = index.search(asked.vectors, 3)
    by = " + ".join(f"{skill.name}@{skill.version}" for skill in asked.rows[0].skills)
    print(f"asked by {by or 'the base model'}")
    for score, number in zip(scores[0], numbers[0], strict=True):
        print(f"{score:.3f}  {passages[number]}")


if sys.argv[1] == "fill":
    lines = [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(fill(sys.argv[2], Path(sys.argv[3]), lines))
else:
    asyncio.run(search(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
