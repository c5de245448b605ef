"""Peers on the same network, found by mDNS: who announces, moves, leaves or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from zeroconf import Error as ZeroconfError
from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from services.federation.addresses import Interface, interfaces, ordered, reachable, usable
from services.federation.errors import DiscoveryError
from services.federation.neighbours import Neighbours
from services.federation.sightings import MAX_ADDRESSES, TYPE, Sighting, instance_of, text_of

__all__ = ["Discovery", "Sighting"]

TICK: Final = 1.0
"""Seconds between two looks at this machine's interfaces and at what has to be asked again."""

SETTLE: Final = 1.0
"""Seconds that a node listens before it announces itself: whoever has its name answers."""

RETRY: Final = 5.0
"""Seconds between attempts: to open sockets, to take a name that another gave up."""

RESCAN: Final = 30.0
"""Seconds until all peers are asked for once more, and sockets that an interface refused tried."""

TTL: Final = 60
"""Seconds: a node that was not heard for so long is gone."""

_PORT: Final = 5353
_LOOKUP: Final = 3.0  # seconds that a host name may take to be found
_FLOOD: Final = 50_000
"""Services heard of until the browser starts anew: it remembers the name of every one."""

_SENTENCES: Final = {
    errno.EADDRINUSE: "another program holds UDP port 5353 and does not share it",
    errno.EACCES: "this process may not use multicast",
    errno.EPERM: "this process may not use multicast",
    errno.EMFILE: "this process has too many files open",
}


class Discovery:
    """Announces this node and tells of others; all in the event loop it is started in.

    `found` gets each new sighting of a node, and again where its addresses, port, key or TLS
    change; `lost` gets the name of a node that said goodbye, changed into nonsense, or was silent
    for `ttl` seconds. Both are called in the loop and must not block. What is told is what
    somebody claims: trust is proved elsewhere.

    A name is one node's. Whoever finds its name taken by another key warns and is silent until
    it is free, but hears its peers all the while; where two announce it, for they have just
    met, the lower fingerprint keeps it.

    With `loopback` only the loopback interface is used, and only loopback addresses are told and
    believed. `advertise` is a host or address to be told in place of this machine's addresses.
    """

    def __init__(
        self,
        node: str,
        fingerprint: str,
        port: int,
        *,
        tls: bool,
        loopback: bool,
        found: Callable[[Sighting], None],
        lost: Callable[[str], None],
        log: Any,
        advertise: str | None = None,
        limit: int = 256,
        ttl: int = TTL,
    ) -> None:
        self._node = node
        self._fingerprint = fingerprint
        self._port = port
        self._tls = tls
        self._loopback = loopback
        self._log = log
        self._advertise = advertise
        self._ttl = ttl
        self._name = f"{instance_of(node, fingerprint)}.{TYPE}"
        self._neighbours = Neighbours(
            node,
            fingerprint,
            port,
            loopback=loopback,
            limit=limit,
            found=found,
            lost=lost,
            contested=self._defend,
            log=log,
        )
        self._watcher: asyncio.Task[None] | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._heard_of = 0  # services, since the browser started
        self._scope: tuple[Interface, ...] = ()  # as the sockets were last opened for
        self._rescan_at = 0.0
        self._info: ServiceInfo | None = None  # as it is announced
        self._told: tuple[str, ...] = ()  # the addresses that are announced
        self._announce_at = 0.0
        self._again = False  # somebody said goodbye in this node's name, or claims it
        self._yield = False  # somebody with a lower fingerprint claims it
        self._resolved: tuple[str, ...] = ()  # of `advertise`
        self._resolve_at = 0.0

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """The nodes that are known now."""
        return self._neighbours.sightings

    @property
    def announced(self) -> bool:
        """Whether this node tells of itself; it does not while another one has its name."""
        return self._info is not None

    async def start(self) -> None:
        """Open the sockets and go on in the background; a machine without network is waited for.

        Raises `DiscoveryError` where mDNS cannot be used here.
        """
        await self._open(interfaces(loopback=self._loopback))
        self._watcher = asyncio.create_task(self._watch(), name="discovery")

    async def aclose(self) -> None:
        """Say goodbye and close the sockets; nothing is told afterwards. Takes about 0.3 s."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
        browser, self._browser = self._browser, None
        opened, self._zeroconf = self._zeroconf, None
        self._info = None
        self._neighbours.clear()
        if browser is not None:
            await browser.async_cancel()
        if opened is not None:
            await opened.async_close()

    async def _watch(self) -> None:
        while True:
            pause = TICK
            try:
                await self._step(time.monotonic())
            except (DiscoveryError, OSError, ZeroconfError, RuntimeError) as error:
                self._neighbours.complain("no discovery now", self._node, str(error) or repr(error))
                pause = RETRY
            except Exception:
                self._log.exception("discovery stumbled")
                pause = RETRY
            await asyncio.sleep(pause)

    async def _step(self, now: float) -> None:
        scope = interfaces(loopback=self._loopback)
        if self._zeroconf is None:
            await self._open(scope)
        elif scope != self._scope or now >= self._rescan_at:
            self._rescan_at = now + RESCAN
            self._resolve_at = now
            await self._zeroconf.async_update_interfaces(_choice(scope))
            self._scope = scope
            self._neighbours.seek(self._zeroconf.zeroconf)
        if self._zeroconf is None or self._browser is None:
            return
        self._neighbours.own = frozenset(reachable(scope))
        await self._announce(self._zeroconf, now)
        self._neighbours.sweep(self._zeroconf.zeroconf, now)
        if self._heard_of > _FLOOD:
            await self._browser.async_cancel()
            self._browse(self._zeroconf)

    async def _open(self, scope: tuple[Interface, ...]) -> None:
        choice = _choice(scope)
        if not choice:
            return
        try:
            _try_port()
            opened = AsyncZeroconf(interfaces=choice)
        except (OSError, RuntimeError) as error:
            raise DiscoveryError(_sentence(error)) from error
        try:
            await opened.zeroconf.async_wait_for_start()
            if self._loopback:
                _confine(opened.zeroconf, scope[0].name)
        except BaseException as error:
            await opened.async_close()
            if isinstance(error, OSError | ZeroconfError):
                raise DiscoveryError(_sentence(error)) from error
            raise
        self._zeroconf = opened
        self._scope = scope
        self._neighbours.own = frozenset(reachable(scope))
        now = time.monotonic()
        self._rescan_at, self._announce_at, self._resolve_at = now + RESCAN, now + SETTLE, now
        self._browse(opened)

    def _browse(self, opened: AsyncZeroconf) -> None:
        self._heard_of = 0
        self._browser = AsyncServiceBrowser(opened.zeroconf, TYPE, handlers=[self._hear])

    def _hear(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """Called by zeroconf whenever records of a service have come, changed or gone."""
        name = name.lower()
        self._heard_of += state_change is ServiceStateChange.Added
        try:
            if state_change is not ServiceStateChange.Removed:
                self._neighbours.consider(zeroconf, name)
                return
            self._neighbours.forget(name)
        except Exception:  # it would go up into zeroconf's reading of datagrams
            self._log.exception("discovery stumbled")
        if name == self._name:
            self._again = True
            self._announce_at = time.monotonic() + RETRY

    def _defend(self, fingerprint: str) -> None:
        """Another key claims this node's name."""
        self._yield |= fingerprint < self._fingerprint
        self._again = True
        self._neighbours.complain(
            "another node has this node's name; give one of them another",
            self._node,
            f"the other key is {fingerprint}",
        )

    async def _announce(self, opened: AsyncZeroconf, now: float) -> None:
        """Say what has to be said of this node, if anything."""
        must_yield, self._yield = self._yield, False
        if self._info is not None and must_yield:
            info, self._info = self._info, None
            self._announce_at = now + RETRY
            await (await opened.async_unregister_service(info))
        addresses = await self._addresses(now)
        fresh = self._info is None
        if fresh and (now < self._announce_at or self._neighbours.contested):
            return
        if not addresses or not (fresh or self._again or addresses != self._told):
            return
        self._again, self._told = False, addresses
        self._info = info = AsyncServiceInfo(
            TYPE,
            self._name,
            port=self._port,
            properties=text_of(self._node, self._fingerprint, self._tls),
            server=f"{self._fingerprint}.local.",
            host_ttl=self._ttl,
            addresses=[ipaddress.ip_address(a.partition("%")[0]).packed for a in addresses],
        )
        if fresh:  # `cooperating_responders`: who has the name was found out by listening
            said = await opened.async_register_service(info, cooperating_responders=True)
        else:
            said = await opened.async_update_service(info)
        await said

    async def _addresses(self, now: float) -> tuple[str, ...]:
        """What peers are told; none while nothing is known that they could use."""
        if self._advertise is None:
            return reachable(self._scope)[:MAX_ADDRESSES]
        if now >= self._resolve_at:
            self._resolve_at = now + RETRY
            self._resolved = await self._resolve(self._advertise) or self._resolved
        return self._resolved

    async def _resolve(self, host: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(_LOOKUP):
                entries = await asyncio.get_running_loop().getaddrinfo(
                    host, None, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            why = f"it cannot be looked up: {str(error) or 'no answer'}"
            self._neighbours.complain("the host to advertise is not known", host, why)
            return ()
        told = {str(entry[4][0]) for entry in entries}
        good = {a for one in told if (a := usable(one, loopback=self._loopback))}
        if not good:
            why = f"peers cannot use {', '.join(sorted(told))}"
            self._neighbours.complain("the host to advertise is of no use", host, why)
        return ordered(good)[:MAX_ADDRESSES]


def _choice(scope: tuple[Interface, ...]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """What zeroconf shall listen at: an IPv4 and an IPv6 address of each interface.

    The latter is the link-local one if possible: of other senders, the kernel does not tell on
    which link they are, and no link-local address that they announce could be used. zeroconf
    finds interfaces by bare addresses; where two have the same, they are named by number. On the
    loopback interface there is no IPv6 multicast.
    """
    found: list[str | int | tuple[tuple[str, int, int], int]] = []
    able = [one for one in scope if one.multicast]
    bare = Counter(address.partition("%")[0] for one in able for address in one.six)
    for one in able:
        found += one.four[:1]
        linked = [a for a in one.six if "%" in a and bare[a.partition("%")[0]] == 1]
        if linked:
            found.append(linked[0])
        elif one.six and not ipaddress.ip_address(one.six[0]).is_loopback:
            found.append(one.index)
    return found


def _try_port() -> None:
    """Raise OSError where the port of mDNS cannot be shared; zeroconf would leave a socket open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(AttributeError):
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        trial.bind(("", _PORT))


def _confine(zeroconf: Zeroconf, interface: str) -> None:
    """Let nothing in or out but by that interface, where the system can promise it.

    A socket bound to port 5353 else hears, and answers, what reaches the port from elsewhere.
    """
    if sys.platform != "linux":
        return
    for wrapped in zeroconf.engine.readers:
        with contextlib.suppress(PermissionError):  # Linux before 5.7, without privileges
            wrapped.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0"
            )


def _sentence(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    reason = _SENTENCES.get(number or 0) or str(error) or type(error).__name__
    return f"peers cannot be discovered by mDNS: {reason}"
