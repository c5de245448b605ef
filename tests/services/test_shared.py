"""Machines without a disk in common: cards and datasets reach each other by the object store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pyarrow import flight

from lora.errors import StoreAwayError
from lora.object_place import ObjectPlace
from lora.objects import Objects
from schemas import SkillInstalled, SkillPublished, SkillRejected, SkillRetired, TrainingRequested
from services.adapter_manager.errors import ManagerError
from services.adapter_manager.service import AdapterManagerService
from services.distiller import datasets
from services.distiller.datasets import GRACE, KEPT, DatasetFolder
from services.distiller.service import Distiller
from services.encoder.service import EncoderService
from services.errors import SettingsError
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.server import LoRAFlightServer
from services.router.service import RouterService
from services.runtime.cards import describe
from services.runtime.settings import Settings, StoreSettings, load_settings
from services.runtime.shared import card_store
from services.runtime.state import StateFolder
from services.runtime.store import open_store
from tests.object_server import ObjectServer
from tests.services.adapter_manager.test_service import Encoder
from tests.services.distiller.material import batch, judged
from tests.services.encoder.processes import Processes, applied, settings, skill, until
from tests.services.factory import plans
from tests.services.factory.fakes import stage
from tests.services.federation.nodes import AUTHOR
from tests.services.forgetting import word


@pytest.fixture(params=["s3", "gs", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The keys of `[store]`."""
    if request.param == "folder":
        return {"url": f"file://{tmp_path}/shared"}
    server: ObjectServer = request.getfixturevalue(request.param)
    return {"url": f"{server.url}/fleet", "endpoint": server.endpoint}


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[tuple[Processes, Processes]]:
    """Two of one bus."""
    one, other = Processes(tmp_path / "one"), Processes(tmp_path / "other")
    other.url = one.url
    yield one, other
    await other.aclose()
    await one.aclose()


async def test_a_card_of_one_machine_serves_on_another(
    machines: tuple[Processes, Processes], store: dict[str, str], tmp_path: Path
) -> None:
    one, other = machines
    shared = settings(store=store)
    told = await one.ear(SkillInstalled, SkillRejected)
    await one.start(AdapterManagerService, settings=shared)
    router = await one.start(RouterService, settings=shared)
    await other.start(EncoderService, settings=shared)
    await until(lambda: len(router.dispatcher.workers) == 1, "the worker")
    third = card_store(shared.store, StateFolder(tmp_path / "third"))
    card = third.put(skill("law"))
    await one.publish(card, to_store=False)
    installed = await told.first(SkillInstalled)
    assert installed.data.card.digest == card.digest
    await until(lambda: card.key in router.skills.directory, "the skill")
    client = await one.client()
    answer = await client.encode(["a contract"], skills=["law"])
    assert applied(answer.rows) == [("law",)]
    for machine in (one, other):
        assert [file.name for file in machine.state.cards.glob("*.arrow")] == [
            third.path(card.key).name
        ]


async def test_a_store_that_is_away_rejects_no_card(
    machines: tuple[Processes, Processes],
    s3: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.adapter_manager.service.AWAY", 0.05)
    one, _ = machines
    store = {"url": f"s3://{s3.bucket}/fleet", "endpoint": s3.endpoint}
    shared = settings(store={**store, "deadline": 1.0})
    told = await one.ear(SkillInstalled, SkillRejected, SkillRetired)
    manager = await one.start(AdapterManagerService, settings=shared)
    await Encoder(one).start()
    third = card_store(settings(store=store).store, StateFolder(tmp_path / "third"))
    card = third.put(skill("law"))
    s3.fail(status=503, code="SlowDown", times=10_000)
    await one.publish(card, to_store=False)
    await until(lambda: len(s3.asked()) > 3, "the manager's attempts")
    with pytest.raises(StoreAwayError):
        manager.store.open(card.key)
    assert told.events == []
    s3.mend()
    assert (await told.first(SkillInstalled)).data.card.digest == card.digest
    assert told.of(SkillRejected) == []


async def test_cards_from_before_the_store_come_into_it(
    machines: tuple[Processes, Processes], store: dict[str, str]
) -> None:
    one, other = machines
    told = await one.ear(SkillInstalled, SkillRejected)
    manager = await one.start(AdapterManagerService)
    await Encoder(one).start()
    event = await one.publish(skill("law"))
    await told.first(SkillInstalled)
    await one.kill(manager)
    shared = settings(store=store)
    await one.start(AdapterManagerService, "2", settings=shared)
    there = card_store(shared.store, other.state)
    assert there.open(event.data.card.digest).name == "law"


@pytest.mark.parametrize("kind", ["s3", "gs"])
async def test_a_bucket_that_is_not_there_is_told_at_the_start(
    machines: tuple[Processes, Processes], request: pytest.FixtureRequest, kind: str
) -> None:
    server: ObjectServer = request.getfixturevalue(kind)
    shared = settings(store={"url": f"{kind}://no-such-bucket", "endpoint": server.endpoint})
    with pytest.raises(ManagerError, match=r"the card store cannot be used: .* no such bucket"):
        await machines[0].start(AdapterManagerService, settings=shared)


async def test_a_dataset_is_shared_until_its_domain_is_forgotten(
    tmp_path: Path, store: dict[str, str]
) -> None:
    shared = Settings(store=StoreSettings(**store))
    async with (
        stage(tmp_path / "one", shared) as on,
        on.service(Distiller, "distiller") as distiller,
    ):
        for domain in ("birds", "bees"):
            await on.bus.publish(*(judged(number, domain) for number in range(16)))
            await on.bus.publish(batch(f"{domain}1", range(16), domain))
        tasks = {task.domain: task for task in await on.until(2, TrainingRequested)}
        found = distiller._datasets._shared
        assert found is not None
        digests = {domain: task.dataset.digest for domain, task in tasks.items()}
        assert found.digests() == sorted(digests.values())
        await on.bus.publish(word("birds", "dissonance_monitor"))
        await until(lambda: distiller.counters["feedback"] == 16, "the domain is forgotten")
        assert found.digests() == [digests["bees"]]


async def test_a_factory_trains_on_a_dataset_of_another_machine(
    tmp_path: Path, store: dict[str, str]
) -> None:
    data = b"as the distiller wrote it"
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = ObjectPlace(store["url"], store.get("endpoint"))
    Objects(place, "datasets", ".parquet").put(digest, data)
    given = Settings(
        store=StoreSettings(**store), factory=plans.settings(body_schedule="off").factory
    )
    (tmp_path / "one").mkdir()
    plan = plans.Plan(tmp_path / "one")
    async with stage(tmp_path / "one", given) as on, on.service(plan.factory, plans.NAME):
        await on.bus.publish(plans.task("t1", digest=digest))
        (published,) = await on.until(1, SkillPublished)
        (entry,) = plan.log
        assert entry["dataset"] == data.decode()
        await until(lambda: not any(on.state.root.glob("**/*.parquet")), "the job is cleared")
    there = card_store(given.store, StateFolder(tmp_path / "other"))
    assert there.digests() == [published.card.digest]
    assert there.open(published.card.digest).name == "birds"


def test_a_gateway_serves_what_is_in_the_store_and_not_on_its_machine(
    tmp_path: Path, store: dict[str, str]
) -> None:
    given = StoreSettings(**store)
    here, there = (card_store(given, StateFolder(tmp_path / name)) for name in ("one", "other"))
    put = there.put(skill("law"))
    offered, gone = (manifest.sign(describe(it), AUTHOR) for it in (put, there.put(skill("tax"))))
    there.delete(gone.digest)
    catalogue = Catalogue(AUTHOR.public, here.bring)
    for card in (offered, gone):
        catalogue.put(card, here.path(card.digest))
    server = LoRAFlightServer(catalogue, node="one", key=AUTHOR.public, port=0)
    server.start()
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as tool:
        tickets = {
            info.descriptor.path[0].decode(): info.endpoints[0].ticket
            for info in tool.list_flights()
        }
        parts = tool.do_get(tickets[offered.digest]).read_all().column("data").to_pylist()
        with pytest.raises(flight.FlightError):
            tool.do_get(tickets[gone.digest]).read_all()
    server.stop()
    assert b"".join(parts) == there.path(put.key).read_bytes()
    assert [offer.card.name for offer in catalogue.offers()] == ["law"]


class Folder:
    """A `DatasetFolder` with an object store in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = Objects(ObjectPlace(f"file://{root}/shared"), "datasets", ".parquet")
        self.open()

    def open(self) -> None:
        self.file = open_store(self.root / "a.sqlite", datasets.SCHEMA)
        self.folder = DatasetFolder(self.file, self.root, self.objects)
        self.folder.tidy()

    def write(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        (self.root / f"{digest}.parquet").write_text(text)
        return f"sha256:{digest}"

    async def make(self, domain: str, text: str, now: float) -> str:
        digest = self.write(text)
        await self.folder.share(digest)
        self.folder.keep(domain, digest, now)
        await self.folder.sweep()
        return digest


async def test_of_each_domain_the_last_few_datasets_stay_in_the_store(tmp_path: Path) -> None:
    on = Folder(tmp_path)
    made = [await on.make("birds", f"birds {i}", i * 2 * GRACE) for i in range(KEPT + 2)]
    assert on.objects.digests() == sorted(made[-KEPT:])
    # One that is made again is known again.
    again = await on.make("birds", "birds 0", 100 * GRACE)
    assert again in on.objects.digests()
    on.file.close()


async def test_what_a_kill_left_in_the_store_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    on = Folder(tmp_path)
    kept = await on.make("birds", "kept", 0.0)
    lost = on.write("lost")
    await on.folder.share(lost)
    await on.folder.sweep()  # another domain's turn: this one is on its way
    assert on.objects.digests() == sorted([kept, lost])
    on.file.close()
    on.open()
    await on.folder.sweep()
    assert on.objects.digests() == [kept]
    on.file.close()


async def test_a_dataset_that_is_given_up_does_not_stay_in_the_store(tmp_path: Path) -> None:
    on = Folder(tmp_path)
    digest = on.write("lost")
    await on.folder.share(digest)
    on.folder.abandon(digest)
    await on.folder.withdraw("birds")
    assert on.objects.digests() == []
    on.file.close()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        pytest.param({"url": "bucket"}, "begins with s3://", id="no scheme"),
        pytest.param({"url": "s3:///a"}, "names no bucket", id="no bucket"),
        pytest.param({"url": "s3://bucket/../c"}, "goes through", id="out of it"),
        pytest.param({"url": "s3://key:hidden@bucket"}, "no credentials", id="credentials"),
        pytest.param({"url": "s3://bucket?secret_key=hidden"}, "no credentials", id="options"),
        pytest.param({"url": "s3://bucket", "endpoint": "h:1"}, "an endpoint is", id="endpoint"),
        pytest.param({"url": "s3://bucket", "endpoint": "http://u:hidden@h"}, "no cred", id="user"),
        pytest.param({"url": "file://host/a"}, "file:///FOLDER", id="folder elsewhere"),
        pytest.param({"endpoint": "http://h:1"}, "need a url", id="endpoint alone"),
    ],
)
def test_a_store_that_makes_no_sense_is_refused(keys: dict[str, str], why: str) -> None:
    given = {f"store.{key}": value for key, value in keys.items()}
    with pytest.raises(SettingsError, match=why) as found:
        load_settings(None, given)
    assert "hidden" not in str(found.value)
