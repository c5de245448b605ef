"""The fleets that are simulated, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from benchmarks.scale.costs import Costs
from benchmarks.scale.plans import Outcome, Plan
from benchmarks.scale.simulation import simulate
from benchmarks.scale.validation import CLIENTS, Seen

__all__ = ["ENCODERS", "Check", "Scale", "checked", "forecasts"]

ENCODERS: Final = (1, 10, 100)
EACH: Final = 32
"""Clients for each encoder, who ask again once they are answered."""
ROUTERS: Final = (2, 4, 8)
LOADS: Final = (0.5, 0.9)
"""Of what it can do."""
LIST: Final = 16
"""Texts of a request, as the lists that were measured have them."""
REQUESTS: Final = {1: 3000, 10: 6000}
MOST: Final = 9000
LISTS: Final = 3000

Tell = Callable[[], object]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen beside what was predicted."""

    seen: Seen
    texts: float
    """A second, predicted; so is the next one."""
    p50_ms: float


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured and simulated."""

    name: str
    command: str
    machine: dict[str, Any]
    load: float
    """Processes that wanted to run on this machine, on average of a minute, before it began."""
    versions: dict[str, str]
    costs: Costs
    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]


def checked(seen: Seen, costs: Costs, seed: int) -> Check:
    """The same run, simulated on one machine with the cores that were left."""
    carrier = costs.carriers[0].name

    def predicted(clients: int, requests: int) -> Outcome:
        plan = Plan(
            carrier=carrier,
            encoders=seen.encoders,
            clients=clients,
            requests=requests,
            seed=seed,
            cores=seen.cores,
        )
        return simulate(plan, costs)

    return Check(seen=seen, texts=predicted(CLIENTS, 3000).texts, p50_ms=predicted(1, 300).p50_ms)


def forecasts(costs: Costs, seed: int, tell: Tell) -> Iterator[Outcome]:
    """As much as each can do, then how long requests take below that, then what helps."""
    for carrier in costs.carriers:
        for encoders in ENCODERS:
            most = Plan(
                carrier=carrier.name,
                encoders=encoders,
                clients=EACH * encoders,
                requests=REQUESTS.get(encoders, MOST),
                seed=seed,
            )
            full = simulate(most, costs)
            yield full
            tell()
            for share in LOADS:
                plan = msgspec.structs.replace(most, clients=0, rate=share * full.rate)
                yield simulate(plan, costs)
                tell()
        for routers in ROUTERS:
            yield simulate(msgspec.structs.replace(most, routers=routers), costs)
            tell()
        lists = msgspec.structs.replace(most, texts=LIST, clients=2 * encoders, requests=LISTS)
        yield simulate(lists, costs)
        tell()
