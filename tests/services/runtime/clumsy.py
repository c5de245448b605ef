"""A process that does one thing badly; which, its first argument says."""

import asyncio
import sys
import time
from typing import ClassVar

from services.runtime.main import run
from services.runtime.service import Service


class Clumsy(Service):
    """Its faults are those of services: a load that cannot be interrupted, a wait in vain."""

    name: ClassVar[str] = "clumsy"
    fault: ClassVar[str] = ""

    async def setup(self) -> None:
        if self.fault == "loads":
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        if self.fault == "waits in vain":
            raise TimeoutError("nobody told me")
        if self.fault == "crashes":
            self.spawn(self.crash(), "crash")

    async def crash(self) -> None:
        raise ValueError("it went wrong")

    async def drain(self) -> None:
        print("DRAINS", flush=True)
        if self.fault == "never drains":
            await asyncio.Event().wait()


if __name__ == "__main__":
    Clumsy.fault = sys.argv.pop(1)
    Clumsy.single = Clumsy.fault == "is the only one"
    Clumsy.keeps = Clumsy.fault == "keeps a store"
    run(Clumsy)
