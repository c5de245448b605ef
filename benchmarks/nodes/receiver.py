"""Fetches cards to a node, without a fleet: one for each line of JSON `{"fetch": DIGEST}`.

`python -m benchmarks.nodes.receiver FOLDER NODE KEY ENDPOINT…`: in FOLDER lie the certificates;
KEY is the author that is trusted; ENDPOINT is PEER HOST PORT. Says how each fetch went, and what
lies in the cache and in `incoming` afterwards. What was whole is removed again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora.card import EXTENSION
from lora.errors import CardError
from lora.store import CardStore
from services.federation.client import LoRAFlightClient
from services.federation.credentials import Credentials
from services.federation.errors import FederationError, NotOffered
from services.federation.protocol import Endpoint

__all__ = ["Receiver", "lying", "main"]


def lying(cache: Path, incoming: Path) -> dict[str, list[str]]:
    """The files in both folders: `whole` under their digest, `broken`, and still `incoming`."""
    found: dict[str, list[str]] = {"whole": [], "broken": [], "incoming": []}
    for path in sorted(cache.iterdir()):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found["whole" if path.name == digest + EXTENSION else "broken"].append(path.name)
    found["incoming"] = sorted(path.name for path in incoming.iterdir())
    return found


class Receiver:
    """A client of one peer; `fetch` never raises for what a network does."""

    def __init__(self, folder: Path, node: str, key: str, peer: str, endpoint: Endpoint) -> None:
        self._store = CardStore(folder / "cards")
        credentials = Credentials.load(folder / "tls", node)
        self._peer = peer
        self._endpoint = Endpoint(endpoint.host, endpoint.port, credentials is not None)
        self._client = LoRAFlightClient(
            self._store.folder,
            trusted={key}.__contains__,
            incoming=folder / "incoming",
            credentials=credentials,
        )

    def fetch(self, digest: str) -> dict[str, Any]:
        """Fetch it, open it, say how it went, remove it."""
        started, error = time.monotonic(), None
        try:
            self._fetched(digest)
            self._store.open(digest)
        except (FederationError, CardError) as why:
            error = f"{type(why).__name__}: {why}"
        seconds = time.monotonic() - started
        found = lying(self._store.folder, self._client.incoming)
        for name in found["whole"]:
            (self._store.folder / name).unlink()
        return {"seconds": seconds, "error": error, **found}

    def close(self) -> None:
        """Leave."""
        self._client.close()

    def _fetched(self, digest: str) -> None:
        try:
            self._client.fetch_skill(digest)
        except NotOffered:  # the peer, or what it has, is not known yet
            self._client.add_peer(self._peer, self._endpoint)
            self._client.list_remote_skills(self._peer)
            self._client.fetch_skill(digest)


def main(words: Sequence[str]) -> None:
    """Fetch what is asked for until standard input ends."""
    folder, node, key, peer, host, port = words
    receiver = Receiver(Path(folder), node, key, peer, Endpoint(host, int(port)))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(receiver.fetch(json.loads(line)["fetch"])), flush=True)
    receiver.close()


if __name__ == "__main__":
    main(sys.argv[1:])
