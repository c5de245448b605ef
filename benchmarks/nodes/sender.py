"""Serves the cards of a folder from a node, without a fleet, until its standard input ends.

`python -m benchmarks.nodes.sender FOLDER NODE HOST PORT RATE`: in FOLDER lie `cards`, `node.key`
and the certificates; RATE is bytes a second, 0 without a limit. Says `{"port": …}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lora.store import CardStore
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.credentials import Credentials
from services.federation.identity import NodeKey
from services.federation.limits import Bucket
from services.federation.server import LoRAFlightServer
from services.runtime.cards import describe

__all__ = ["main"]


def main(words: Sequence[str]) -> None:
    """Serve."""
    folder, node, host, port, rate = Path(words[0]), words[1], words[2], int(words[3]), words[4]
    key = NodeKey.load_or_create(folder / "node.key")
    store, catalogue = CardStore(folder / "cards"), Catalogue(key.public)
    for digest in store.digests():
        card = manifest.sign(describe(store.open(digest)), key)
        catalogue.put(card, store.path(digest))
    server = LoRAFlightServer(
        catalogue,
        node=node,
        key=key.public,
        host=host,
        port=port,
        credentials=Credentials.load(folder / "tls", node),
        egress=Bucket(int(rate)),
    )
    server.start()
    print(json.dumps({"port": server.port}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
