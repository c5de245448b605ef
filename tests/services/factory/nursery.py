"""`python -m tests.services.factory.nursery`: forks training children, all their imports done.

A line on standard input names a job's folder. The answer is the child's process id and, once it has
ended, a line with its exit code, or the signal that killed it as a negative number.
"""

from __future__ import annotations

import os
import sys

import sentence_transformers

from lora.training import body, candidate
from services.factory import child

__all__: list[str] = []


def _serve() -> None:
    _ = sentence_transformers, body, candidate  # a few seconds each time, where nobody forks
    nothing = os.open(os.devnull, os.O_WRONLY)
    for line in sys.stdin.buffer:
        born = os.fork()
        if not born:
            os.dup2(nothing, 1)
            try:
                os._exit(child.main([os.fsdecode(line.rstrip(b"\n"))]))
            finally:
                os._exit(70)
        os.write(1, b"%d\n" % born)
        _, status = os.waitpid(born, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _serve()
