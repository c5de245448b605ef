"""Every transport, behind one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import bus
from bus.broker import Broker
from bus.security import make_broker_keys, make_client_keys
from tests.bus.kit import BrokerProcess, free_port, short_folder
from tests.bus.nats_server import NatsServer, nats_binary

Connect = Callable[..., Awaitable[bus.Bus]]


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker in the tests' own process is not short of memory by what other tests hold there."""
    monkeypatch.setattr("bus.broker.broker.MEMORY", 2**60)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """One server for all tests: each takes a fleet's name of its own."""
    nats_binary()
    with short_folder() as folder:
        server = NatsServer(folder)
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["memory", "ipc", "tcp", "nats"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Opens connections to one fresh bus; closes them all, then the bus."""
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {}
        if request.param == "memory":
            url = f"memory://{uuid4()}"
        elif request.param == "nats":
            server: NatsServer = request.getfixturevalue("nats_server")
            url = f"{server.url}/t{uuid4().hex[:12]}"
        else:
            state = stack.enter_context(short_folder())
            if request.param == "ipc":
                process = BrokerProcess(state)
                process.start()
                stack.callback(process.stop)
                url = process.url
            else:
                url = f"tcp://127.0.0.1:{free_port()}"
                keys: Path = state / "keys"
                options["server_key"] = make_broker_keys(keys)
                options["key"] = make_client_keys(keys, "tester", role="admin", sources=["/"])
                await stack.enter_async_context(Broker(url, state))

        async def opened(source: str = "/test/1", **more: Any) -> bus.Bus:
            found = await bus.connect(url, source=source, **{"patience": 10.0, **options, **more})
            stack.push_async_callback(found.aclose)
            return found

        yield opened
