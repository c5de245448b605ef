"""Stands between two interfaces, loses some frames and delays the rest: netem without a kernel's.

    relay.py FROM TO LOSS-PER-CENT DELAY-MS

What comes in at FROM goes out at TO, impaired; the way back is left as it is. Ends with its
standard input. Frames keep what the kernel has still to do to them (segments, checksums).
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

__all__ = ["main"]

_EVERY_PROTOCOL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_LARGEST: Final = 1 << 17
_TURN: Final = 256  # frames
_BUFFER: Final = 32 << 20
_LIMIT: Final = 10_000
"""Frames that wait; as netem, it drops what comes beyond."""


def _opened(interface: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    raw.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    raw.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    raw.bind((interface, _EVERY_PROTOCOL))
    raw.setblocking(False)
    return raw


def _received(raw: socket.socket) -> Iterator[bytes]:
    """What is there, but no more than one turn's share."""
    with contextlib.suppress(OSError):  # nothing more, or the cable is out
        for _ in range(_TURN):
            yield raw.recv(_LARGEST)


def _sent(raw: socket.socket, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a frame that cannot be sent is lost, as on any network
        raw.send(frame)


def main(words: list[str]) -> None:
    """Relay until standard input ends."""
    here, there = _opened(words[0]), _opened(words[1])
    loss, delay = float(words[2]) / 100, float(words[3]) / 1e3
    chance = random.Random()
    waiting: deque[tuple[float, bytes]] = deque()
    with selectors.DefaultSelector() as selector:
        for source in (here, there, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready = {key.fileobj for key, _ in selector.select(pause)}
            if sys.stdin in ready and not os.read(0, 1):
                return
            now = time.monotonic()
            for frame in _received(here) if here in ready else ():
                if chance.random() >= loss and len(waiting) < _LIMIT:
                    waiting.append((now + delay, frame))
            for frame in _received(there) if there in ready else ():
                _sent(here, frame)
            while waiting and waiting[0][0] <= time.monotonic():
                _sent(there, waiting.popleft()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
