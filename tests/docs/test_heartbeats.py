"""What `docs/wire-protocol.md` says of heartbeats is what the processes count."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from bus import MemoryBus, connect
from bus.broker import Broker
from schemas import FleetHeartbeat
from services.adapter_manager.service import AdapterManagerService
from services.api.service import ApiService
from services.dissonance_monitor.service import DOMAINS, DissonanceMonitor
from services.distiller.service import Distiller
from services.encoder.service import EncoderService
from services.encoder.tally import CARDS, SKILLS, Tally
from services.factory.service import SkillFactory
from services.federation.service import FederationService
from services.router.meter import Meter
from services.router.service import RouterService
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "wire-protocol.md").read_text("utf-8")
SECTION = TEXT.partition("\n## Heartbeats\n")[2].partition("\n## ")[0]
SERVICES: tuple[type[Service], ...] = (
    AdapterManagerService,
    ApiService,
    DissonanceMonitor,
    Distiller,
    EncoderService,
    FederationService,
    RouterService,
    SkillFactory,
)

pytestmark = pytest.mark.docs


def documented() -> dict[str, set[str]]:
    """Names by service, as the table has them; of a histogram and of a family its name alone."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", SECTION, re.MULTILINE)
    return {
        name: {it.partition(":")[0] for it in re.findall(r"`([\w:]+)`", counters)}
        for name, counters in rows
    }


def plain(counters: dict[str, int | float]) -> set[str]:
    """The same of counters that are told."""
    histograms = {name.partition("_le_")[0] for name in counters if "_le_" in name}
    return histograms | {
        name.partition(":")[0]
        for name in counters
        if not any(name.startswith(f"{histogram}_") for histogram in histograms)
    }


@pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.name)
async def test_a_service_counts_what_is_documented(kind: type[Service], tmp_path: Path) -> None:
    async with MemoryBus(uuid4().hex, source=f"/{kind.name}/1") as bus:
        service = kind(Context(Settings(), bus, StateFolder(tmp_path)))
        try:
            if kind is AdapterManagerService:  # it counts what its table holds
                await service.setup()
            told = plain(service.counters)
        finally:
            await service.aclose()
    if kind is RouterService:
        told |= plain(Meter().counters(0.0))
    elif kind is EncoderService:
        told |= plain(Tally().counters()) | {"rows", "card"}
    elif kind is DissonanceMonitor:
        told |= {"open", "judged", "clashes", "last"}
    elif kind is SkillFactory:
        told |= {"trains"}
    assert documented()[kind.name] == told


async def test_the_broker_counts_what_is_documented(short_path: Path) -> None:
    url = f"ipc://{short_path / 'bus'}"
    async with (
        Broker(url, short_path / "state"),
        await connect(url, source="/test/1") as bus,
        bus.watch(FleetHeartbeat) as beats,
    ):
        beat = await beats.get(timeout=20)
    assert documented()["broker"] == plain(beat.data.counters) | {"lag"}


def test_every_service_is_documented() -> None:
    assert set(documented()) == {kind.name for kind in SERVICES} | {"broker"}


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"Of the {DOMAINS} domains" in SECTION
    assert f"beyond {SKILLS} names" in SECTION
    assert f"the newest {CARDS} of" in SECTION
