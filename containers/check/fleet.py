"""The services of compose.yaml, each run from the image with its own command and environment.

They share one container's file system (which they may not write to: compose.yaml says
`read_only`), as a copy for each would take gigabytes; a host name, the volume and the settings are
mounted as Compose would.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from containers.check.compose import Service
from containers.check.tools import Buildah, CheckError, program, run

__all__ = ["Fleet"]

_HEALTHY_SECONDS = 300.0  # a busy machine of two cores takes a while to import PyTorch twice
_LAST = 25  # lines of a log that an error quotes


@dataclass
class _Running:
    service: Service
    host: str
    process: subprocess.Popen[bytes]
    log: Path
    healthy: bool = False

    def inner(self) -> psutil.Process:
        """The process itself: buildah, which runs it, would kill it instead of passing a signal."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if not child.cmdline()[0].startswith("buildah"):
                return child
        raise CheckError(f"{self.host} does not run")

    def said(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-_LAST:])


class Fleet:
    """The containers of one image; `stop` ends them, whatever happened."""

    def __init__(
        self, buildah: Buildah, image: str, work: Path, configs: Mapping[str, Path]
    ) -> None:
        self._buildah = buildah
        self._work = work
        self._configs = configs
        self._running: list[_Running] = []
        buildah("rm", "--all")
        shutil.rmtree(work / "volumes", ignore_errors=True)
        hosts = "--add-host=broker:127.0.0.1"  # one network for all of them: the loopback
        self._container = buildah("from", "--pull-never", hosts, image)
        self.root = Path(buildah("mount", self._container))

    def finish(self, service: Service) -> None:
        """Run a service to its end; raises `CheckError` where that is not a good one."""
        running = self._start(service, service.name)
        code = running.process.wait(_HEALTHY_SECONDS)
        if code:
            raise CheckError(f"{service.name} ended with exit code {code}:\n{running.said()}")

    def start(self, service: Service, host: str) -> None:
        """Start a service; see `await_health`."""
        self._running.append(self._start(service, host))

    def await_health(self) -> None:
        """Return once every health check has passed; raises `CheckError`."""
        ends = time.monotonic() + _HEALTHY_SECONDS
        for running in self._running:
            while not running.healthy:
                code = running.process.poll()
                if code is not None:
                    raise CheckError(f"{running.host} ended with {code}:\n{running.said()}")
                words = running.service.health or ()
                code, said = self.execute(running.service, running.host, words)
                running.healthy = code == 0
                if code and time.monotonic() > ends:
                    raise CheckError(f"{running.host} is not healthy: {said}\n{running.said()}")

    def execute(
        self, service: Service, host: str, words: Sequence[str], given: str = ""
    ) -> tuple[int, str]:
        """Run something beside a service, as `docker compose exec` does; exit code and output."""
        command = self._words(service, host, words)
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=120, check=False
        )
        return ended.returncode, ended.stdout or ended.stderr

    def stop(self) -> dict[str, int]:
        """End all in reverse order with SIGTERM; the exit code of each."""
        codes: dict[str, int] = {}
        for running in reversed(self._running):
            with_grace = running.service.raw.get("stop_grace_period", "10s")
            if running.process.poll() is None:
                os.kill(running.inner().pid, signal.SIGTERM)
            try:
                codes[running.host] = running.process.wait(float(with_grace.removesuffix("s")))
            except subprocess.TimeoutExpired:
                running.inner().kill()
                codes[running.host] = running.process.wait()
        self._running.clear()
        return codes

    def kill(self) -> None:
        """End at once whatever still runs."""
        for running in self._running:
            for process in psutil.Process(running.process.pid).children(recursive=True):
                process.kill()
            running.process.wait()
        self._running.clear()

    def written(self, state: str) -> list[str]:
        """Files of the user of `state` outside of it: what a read-only root would have refused."""
        mine = (self.root / state.lstrip("/")).stat().st_uid
        found = run((program("find"), str(self.root), "-xdev", "-uid", str(mine))).split()
        return [path for path in found if path != f"{self.root}{state}"]

    def volume(self, name: str, target: str) -> Path:
        """The folder of a named volume; as an engine does, made with the owner of `target`."""
        folder = self._work / "volumes" / name
        if not folder.exists():
            found = (self.root / target.lstrip("/")).stat()
            folder.mkdir(parents=True)
            os.chown(folder, found.st_uid, found.st_gid)
            folder.chmod(stat.S_IMODE(found.st_mode))
        return folder

    def _start(self, service: Service, host: str) -> _Running:
        log = self._work / f"{host}.log"
        words = self._words(service, host, service.command)
        with log.open("wb") as file:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        return _Running(service, host, process, log)

    def _words(self, service: Service, host: str, words: Sequence[str]) -> tuple[str, ...]:
        volumes = [
            f"--volume={self.volume(name, target)}:{target}" for name, target in service.mounts
        ]
        configs = [
            f"--volume={self._configs[name]}:{target}:ro" for name, target in service.configs
        ]
        return self._buildah.command(
            *("run", "--isolation", "chroot", "--network", "host", "--hostname", host),
            *("--cap-drop", "all"),
            *(f"--mount=type=tmpfs,destination={folder}" for folder in service.tmpfs),
            *(f"--env={name}={value}" for name, value in service.environment.items()),
            *volumes,
            *configs,
            *("--", self._container, *words),
        )
