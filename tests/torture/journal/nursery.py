"""`python -m tests.torture.journal.nursery`: forks the storm's processes, all imports done.

A line of JSON on standard input is a role: the answer is the process id. `null` asks who died: the
answer is a list of process ids. At the end of input everybody is killed.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from tests.torture.journal.roles import Role, main

__all__: list[str] = []


def _serve() -> None:
    decoder = msgspec.json.Decoder(Role | None)
    children: set[int] = set()
    for line in sys.stdin.buffer:
        role = decoder.decode(line)
        answer: int | list[int]
        if role is None:
            answer = []
            while children:
                dead, _ = os.waitpid(-1, os.WNOHANG)
                if not dead:
                    break
                children.discard(dead)
                answer.append(dead)
        else:
            answer = os.fork()
            if not answer:
                try:
                    os._exit(main(role))
                finally:
                    os._exit(2)
            children.add(answer)
        os.write(1, msgspec.json.encode(answer) + b"\n")
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve()
