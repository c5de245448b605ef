"""A process of a dummy fleet: says by a line that it lives, and misbehaves as its mode says."""

import os
import signal
import subprocess
import sys
import time


def say(*words: object) -> None:
    print(*words, flush=True)


def main(mode: str) -> None:
    def stop(*_: object) -> None:
        say("stopping")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else stop)
    if mode == "refuses":
        say("my settings are wrong")
        sys.exit(2)
    if mode == "crashes":
        say("about to crash")
        sys.exit(1)
    if mode in ("stubborn", "nests"):
        nested = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        say("NESTED", nested.pid)
    if mode != "never":
        say("BEAT", os.getpid(), "ready")
    if mode == "crashes-later":
        sys.exit(1)
    while True:
        time.sleep(0.05)
        if mode not in ("mute", "never"):
            say("BEAT", os.getpid(), "ready")


if __name__ == "__main__":
    main(sys.argv[1])
