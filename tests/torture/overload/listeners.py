"""Subscribers that do not keep up: one reads a little, the others never do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import zmq

from bus.urls import endpoints

__all__ = ["lazy"]

PER_SECOND: Final = 50


@contextlib.contextmanager
def lazy(url: str, *, slow: int, deaf: int) -> Iterator[None]:
    """So many subscribers to everything that read 50 messages a second, and that read none.

    Their own queues are short: what they do not read waits at the broker.
    """
    context = zmq.Context()
    sockets = []
    for _ in range(slow + deaf):
        socket = context.socket(zmq.SUB)
        socket.linger = 0
        socket.setsockopt(zmq.RCVHWM, 10)
        socket.setsockopt(zmq.RCVBUF, 4096)
        socket.subscribe(b"")
        socket.connect(endpoints(url).egress)
        sockets.append(socket)
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(sockets[:slow], over), name="slow subscribers")
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
        for socket in sockets:
            socket.close()
        context.term()


def _read(sockets: list[zmq.Socket[bytes]], over: threading.Event) -> None:
    pause = 1 / (PER_SECOND * max(len(sockets), 1))
    while not over.is_set():
        for socket in sockets:
            with contextlib.suppress(zmq.Again):
                socket.recv_multipart(zmq.DONTWAIT)
            time.sleep(pause)
