"""A network of nodes on one machine: Linux network namespaces behind one bridge, by iproute2.

    with Network(nodes=3) as network:
        network.run(0, ["python", "-m", "http.server", "--bind", network.four(0)])
        network.netem(1, loss=5, delay_ms=200)

The bridge has a namespace of its own: nothing of the machine's network is touched, and nothing
that is sent inside gets out. All nodes share the machine's file system. Root is needed. As a
command: `python -m benchmarks.kit.namespaces --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

import psutil

__all__ = ["NETEM", "RELAY", "Network", "NetworkError", "remove_leftovers", "unavailable"]

PREFIX: Final = "consonance-"
ROOT: Final = Path(__file__).resolve().parents[2]
MOST: Final = 200
NETEM: Final = "tc netem"
RELAY: Final = "a relay process, for the kernel has no netem"
_NAMES: Final = Path("/run/netns")
_PATIENCE: Final = 5.0  # seconds until what does not end is killed
_COUNTER: Final = itertools.count()
_HUB: Final = "hub"
_QUIET_HUB: Final = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
_NO_DETECTION: Final = (
    "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done"
)
"""Nobody else is here: addresses are ready at once, and do not wait for a duplicate's word."""


class NetworkError(Exception):
    """Namespaces cannot be had here, or a step of making them failed."""


def unavailable() -> str | None:
    """Why there can be no `Network` on this machine; None where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid():
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip`, of iproute2"
    name = f"{_own_prefix()}trial"
    try:
        _ip("netns", "add", name)
    except NetworkError as error:
        return str(error)
    _ip("netns", "del", name)
    return None


class Network:
    """So many nodes, `0` to `nodes - 1`, that reach each other and nothing else.

    A context manager. All of it is removed, and what runs in it ended, when the context is left,
    also by an exception, Ctrl-C or SIGTERM; what a killed process left is removed by the next.
    Raises `NetworkError`.
    """

    def __init__(self, nodes: int = 5) -> None:
        if not 0 < nodes <= MOST:
            raise ValueError(f"a network has 1 to {MOST} nodes, not {nodes}")
        self.nodes = range(nodes)
        self._prefix = f"{_own_prefix()}{next(_COUNTER)}-"
        self._relays: dict[int, subprocess.Popen[bytes]] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._handler: Any = None

    def __enter__(self) -> Self:
        why = unavailable()
        if why is not None:
            raise NetworkError(why)
        remove_leftovers()
        self._catch()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs in the nodes and remove them; may be called twice."""
        try:
            for process in (*self._processes, *self._relays.values()):
                process.terminate()
            _remove([self._name(_HUB), *map(self.name, self.nodes)])
            for process in (*self._processes, *self._relays.values()):
                _end(process)
            self._processes.clear()
            self._relays.clear()
        finally:
            self._release()

    def name(self, node: int) -> str:
        """The name of a node's namespace."""
        return self._name(f"n{node}")

    def four(self, node: int) -> str:
        """The IPv4 address of a node."""
        return f"10.77.0.{node + 1}"

    def six(self, node: int) -> str:
        """The IPv6 address of a node."""
        return f"fd77::{node + 1:x}"

    def command(self, node: int, words: Sequence[str]) -> tuple[str, ...]:
        """The words that run these words in a node, for whoever starts processes in another way."""
        return ("ip", "netns", "exec", self.name(node), *words)

    def run(self, node: int, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a node; `options` are those of `subprocess.Popen`.

        With the network it ends, and its pipes are closed.
        """
        process = subprocess.Popen(self.command(node, words), **options)
        self._processes.append(process)
        return process

    def netem(self, node: int, *, loss: float = 0.0, delay_ms: float = 0.0) -> str:
        """Lose so many per cent of what a node sends, and delay the rest; by which means.

        By `tc netem`; where the kernel has none, a process forwards the node's frames instead.
        """
        self.clear(node)
        words = f"root netem loss {loss}% delay {delay_ms}ms limit 10000"
        tc = ("tc", "-n", self.name(node), "qdisc", "replace", "dev", "eth0", *words.split())
        if shutil.which("tc") is None or _failed(tc):
            self._relay(node, loss, delay_ms)
            return RELAY
        return NETEM

    def clear(self, node: int) -> None:
        """Lose and delay nothing any more."""
        if shutil.which("tc") is not None:
            _failed(("tc", "-n", self.name(node), "qdisc", "del", "dev", "eth0", "root"))
        relay = self._relays.pop(node, None)
        if relay is not None:
            _end(relay)
            _batch(self._name(_HUB), f"link del in{node}", f"link set p{node} master br0")

    def cut(self, node: int) -> None:
        """Pull a node's cable."""
        _ip("-n", self._name(_HUB), "link", "set", f"p{node}", "down")

    def mend(self, node: int) -> None:
        """Plug a node's cable in."""
        _ip("-n", self._name(_HUB), "link", "set", f"p{node}", "up")

    def _name(self, role: str) -> str:
        return f"{self._prefix}{role}"

    def _make(self) -> None:
        hub = self._name(_HUB)
        names = [hub, *map(self.name, self.nodes)]
        _batch(None, *(f"netns add {name}" for name in names))
        _inside(hub, _QUIET_HUB)
        _batch(
            hub,
            "link add br0 type bridge mcast_snooping 0 forward_delay 0",
            "link set br0 up",
            *(f"link add p{n} type veth peer name eth0 netns {self.name(n)}" for n in self.nodes),
            *(f"link set p{n} master br0" for n in self.nodes),
            *(f"link set p{n} up" for n in self.nodes),
        )
        for node in self.nodes:
            _inside(self.name(node), _NO_DETECTION)
            _batch(
                self.name(node),
                "link set lo up",
                f"addr add {self.four(node)}/24 brd + dev eth0",
                f"addr add {self.six(node)}/64 dev eth0 nodad",
                "link set eth0 up",
                "route add 224.0.0.0/4 dev eth0",
            )

    def _relay(self, node: int, loss: float, delay_ms: float) -> None:
        """Put a process between the node's cable and the bridge."""
        hub, cable, inlet, outlet = self._name(_HUB), f"p{node}", f"in{node}", f"out{node}"
        _batch(
            hub,
            f"link add {inlet} type veth peer name {outlet}",
            f"link set {cable} nomaster",
            f"link set {outlet} master br0",
            f"link set {outlet} up",
            f"link set {inlet} up",
        )
        relay = subprocess.Popen(
            (
                *("ip", "netns", "exec", hub),
                *(sys.executable, "-P", str(ROOT / "benchmarks/kit/relay.py")),
                *(cable, inlet, str(loss), str(delay_ms)),
            ),
            stdin=subprocess.PIPE,  # its end is the relay's
            stdout=subprocess.PIPE,
        )
        self._relays[node] = relay
        if relay.stdout is None or relay.stdout.readline() != b"ready\n":
            self.clear(node)
            raise NetworkError("loss and delay: the relay of a kernel without netem did not start")

    def _catch(self) -> None:
        """Let SIGTERM leave the context, where nobody else has asked for it."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._handler = signal.signal(signal.SIGTERM, _leave)

    def _release(self) -> None:
        if self._handler is not None and signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, self._handler)
        self._handler = None


def remove_leftovers() -> list[str]:
    """Remove the namespaces of makers that are dead; returns their names."""
    names = [path.name for path in _NAMES.glob(f"{PREFIX}*")] if _NAMES.is_dir() else []
    dead = [name for name in names if not _alive(name)]
    _remove(dead)
    return dead


def _own_prefix() -> str:
    """Names the maker: a process number alone may be another's later."""
    me = psutil.Process()
    return f"{PREFIX}{me.pid}-{int(me.create_time())}-"


def _alive(name: str) -> bool:
    pid, started = name.removeprefix(PREFIX).split("-")[:2]
    try:
        return abs(int(psutil.Process(int(pid)).create_time()) - int(started)) <= 1
    except (psutil.Error, ValueError):
        return False


def _remove(names: Sequence[str]) -> None:
    """End what runs in these namespaces, then remove those that are there."""
    there = [name for name in names if (_NAMES / name).exists()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _PATIENCE
        while (left := _inhabitants(there)) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            psutil.wait_procs(left, timeout=0.5)
        if not left:
            break
    for name in there:
        with contextlib.suppress(NetworkError):  # another one removes leftovers as well
            _ip("netns", "del", name)


def _inhabitants(names: Sequence[str]) -> list[psutil.Process]:
    found = []
    for name in names:
        with contextlib.suppress(NetworkError):
            for word in _ip("netns", "pids", name).split():
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(int(word))
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
    return found


def _ip(*words: str) -> str:
    return _call(("ip", *words))


def _batch(namespace: str | None, *lines: str) -> None:
    where = () if namespace is None else ("-n", namespace)
    _call(("ip", *where, "-batch", "-"), "\n".join(lines))


def _inside(namespace: str, script: str) -> None:
    _ip("netns", "exec", namespace, "sh", "-c", script)


def _call(words: Sequence[str], given: str | None = None) -> str:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise NetworkError(f"`{' '.join(words)}` failed: {said}")
    return done.stdout


def _failed(words: Sequence[str]) -> bool:
    try:
        _call(words)
    except NetworkError:
        return True
    return False


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what it did not read is lost
                pipe.close()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _impaired(given: argparse.Namespace) -> Iterator[Network]:
    with Network(given.nodes) as network:
        if given.loss or given.delay_ms:
            for node in network.nodes:
                network.netem(node, loss=given.loss, delay_ms=given.delay_ms)
        yield network


def main(words: Sequence[str] | None = None) -> int:
    """The command: a network for as long as it runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kit.namespaces",
        description="Make a network of namespaces, show it, and remove it on Ctrl-C.",
        epilog="In another terminal: ip netns exec NAME COMMAND",
    )
    parser.add_argument("--nodes", type=int, default=5, help="%(default)s")
    parser.add_argument("--loss", type=float, default=0.0, help="per cent, of what each one sends")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of what each one sends")
    parser.add_argument("--clean", action="store_true", help="only remove what killed runs left")
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, _leave)
    try:
        if given.clean:
            print(*remove_leftovers(), sep="\n")
            return 0
        with _impaired(given) as network:
            for node in network.nodes:
                print(network.name(node), network.four(node), network.six(node), flush=True)
            signal.pause()
    except (NetworkError, ValueError) as error:
        print(f"namespaces: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
