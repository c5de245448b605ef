"""Every setting of the fleet: typed, with unit, default and range; read from TOML.

One frozen section per concern. Durations are seconds, sizes bytes, unless the key says otherwise.
The documents about them are made from here by `settings_text`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from schemas.toml import parse_toml
from services.errors import SettingsError
from services.runtime.settings_api import ApiSettings
from services.runtime.settings_base import Section, doc
from services.runtime.settings_federation import FederationSettings
from services.runtime.settings_fields import fields_of
from services.runtime.settings_learning import DistillerSettings, FactorySettings, TeacherSettings
from services.runtime.settings_store import StoreSettings

__all__ = [
    "ApiSettings",
    "BusSettings",
    "DistillerSettings",
    "EncoderSettings",
    "FactorySettings",
    "FederationSettings",
    "FleetSettings",
    "ManagerSettings",
    "MonitorSettings",
    "Named",
    "RouterSettings",
    "Settings",
    "StoreSettings",
    "TeacherSettings",
    "load_settings",
]


_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")

Named = Literal[
    "broker",
    "adapter_manager",
    "router",
    "encoder",
    "dissonance_monitor",
    "distiller",
    "factory",
    "federation",
    "api",
]
"""A process of the fleet."""


class FleetSettings(Section, frozen=True, kw_only=True):
    """The fleet as a whole: `run_all.py`."""

    state: Annotated[str, doc("Folder of everything that outlives the fleet.", min_length=1)] = (
        ".consonance"
    )
    workers: Annotated[
        Annotated[int, doc("", "processes", ge=1, le=256)] | None,
        doc("Encoder processes; not set: two, or one on a machine with one core."),
    ] = None
    routers: Annotated[
        int,
        doc(
            "Router processes; they share the requests. One will do until it keeps a core busy.",
            "processes",
            ge=1,
            le=64,
        ),
    ] = 1
    host: Annotated[
        str | None,
        doc(
            "This machine's name among several on one bus, letters, digits and dashes: its "
            "processes are called `NAME-1`, `NAME-2`. Not set: `1`, `2`, for one machine alone."
        ),
    ] = None
    services: Annotated[
        tuple[Named, ...],
        doc(
            "What runs on this machine where others run the rest; empty: all of it. Routers, "
            "encoders, factories and APIs there may be on every machine, of all else there is one."
        ),
    ] = ()
    model: Annotated[
        str | None,
        doc(
            "Folder or hub id of the model; not set: all-MiniLM-L6-v2, which is installed with us."
        ),
    ] = None
    bus: Annotated[
        str | None,
        doc(
            "Where the fleet's broker binds, `ipc:///FOLDER` or `tcp://HOST:PORT`, or the servers "
            "of a fleet without one, `nats://HOST:PORT,…` or `tls://…`; not set: the "
            "folder `bus` of the state folder."
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], doc("The least that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], doc("How the fleet writes its processes' logs to standard error.")
    ] = "text"
    traces: Annotated[
        Literal["auto", "on", "off"],
        doc(
            "Whether spans go to an OpenTelemetry collector; `auto`: where the environment names "
            "one (`OTEL_EXPORTER_OTLP_ENDPOINT`)."
        ),
    ] = "auto"
    start_timeout: Annotated[
        float, doc("How long a process may take until it says that it is ready.", "s", gt=0)
    ] = 90.0
    stop_grace: Annotated[
        float, doc("How long a process may drain after SIGTERM before it is killed.", "s", ge=0)
    ] = 10.0
    max_failures: Annotated[
        int,
        doc("So many failures of one process within `failure_window` end the fleet.", ge=1, le=100),
    ] = 5
    failure_window: Annotated[float, doc("See `max_failures`.", "s", gt=0)] = 60.0
    backoff_first: Annotated[
        float, doc("Wait before the first restart; doubles with each failure.", "s", ge=0)
    ] = 0.25
    backoff_max: Annotated[float, doc("The longest wait before a restart.", "s", ge=0)] = 10.0
    silence: Annotated[
        float,
        doc(
            "A ready process without a heartbeat for so long is killed and restarted; 0: never.",
            "s",
            ge=0,
        ),
    ] = 60.0

    def __post_init__(self) -> None:
        if self.backoff_max < self.backoff_first:
            raise ValueError("backoff_max must not be below backoff_first")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ValueError(f"host {self.host!r} must be a-z, 0-9 and dashes, 32 at most")

    def runs(self, service: Named) -> bool:
        """Whether the processes of a service run on this machine."""
        return not self.services or service in self.services

    def instance(self, number: int) -> str:
        """What the process of this number is called among its kind."""
        return f"{number}" if self.host is None else f"{self.host}-{number}"

    @property
    def worker_count(self) -> int:
        """`workers`, or the default that fits this machine."""
        return self.workers or min(2, os.cpu_count() or 1)


class BusSettings(Section, frozen=True, kw_only=True):
    """The broker and its journal."""

    retention_days: Annotated[float, doc("Events older than this are forgotten.", "days", gt=0)] = (
        30.0
    )
    retention_bytes: Annotated[
        int, doc("The journal never grows beyond this.", "bytes", ge=1 << 20)
    ] = 1 << 30
    max_deliveries: Annotated[
        int, doc("So many failed deliveries send an event to the dead letters.", ge=1)
    ] = 5
    free_lapses: Annotated[
        int, doc("Leases of an event that may run out before that counts as a failure.", ge=0)
    ] = 2
    max_event_bytes: Annotated[
        int, doc("The largest event, attachments not counted.", "bytes", ge=1 << 10)
    ] = 1 << 20
    max_message_bytes: Annotated[
        int, doc("The largest frame; who sends a larger one is cut off.", "bytes", ge=1 << 20)
    ] = 64 << 20
    heartbeat_seconds: Annotated[
        float, doc("Time between two heartbeats of the broker.", "s", gt=0)
    ] = 2.0
    subscriber_queue: Annotated[
        int, doc("What waits for a slow subscriber; beyond it live events drop.", "messages", ge=1)
    ] = 10_000
    writer_queue_bytes: Annotated[
        int, doc("What waits for the journal; beyond it senders are put off.", "bytes", ge=1 << 20)
    ] = 64 << 20
    maintenance_seconds: Annotated[
        float, doc("Time between two looks for what is to be forgotten.", "s", gt=0)
    ] = 30.0

    def __post_init__(self) -> None:
        if self.max_event_bytes > self.retention_bytes // 2:
            raise ValueError("max_event_bytes must be at most half of retention_bytes")


class EncoderSettings(Section, frozen=True, kw_only=True):
    """An encoder process."""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        doc("Where the model runs; `auto`: CUDA where there is one."),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        doc(
            "What the model computes in; `auto`: as its files have it. `bfloat16` is half as fast "
            "again where the processor or the GPU knows it, moves vectors by less than 0.0001 of "
            "cosine and takes half of the memory, but a copy for each worker; `float16` is for "
            "GPUs."
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, doc("", "threads", ge=1, le=1024)] | None,
        doc("CPU threads of each worker; not set: the cores divided among the workers."),
    ] = None
    niceness: Annotated[
        int,
        doc(
            "How far computing stands back where processors are short: who hands requests around, "
            "and clients on this machine, go first.",
            ge=0,
            le=19,
        ),
    ] = 5
    batch_tokens: Annotated[
        int,
        doc(
            "The most tokens in one forward pass: more make a query wait longer behind a bulk; a "
            "CPU gains nothing by it, a GPU may (8192).",
            "tokens",
            ge=1,
        ),
    ] = 1024
    packed_bytes: Annotated[
        int,
        doc(
            "Weights of the model's layers up to this size in all are copied into the order that "
            "the processor multiplies fastest in: a lone query takes two thirds of the time, a "
            "full batch nine tenths. The copy is each worker's own; with 0 they share the file.",
            "bytes",
            ge=0,
        ),
    ] = 256 << 20
    card_budget_bytes: Annotated[
        int, doc("Memory for the weights of mapped cards.", "bytes", ge=1 << 20)
    ] = 256 << 20
    cache_entries: Annotated[
        int, doc("Base vectors that a worker keeps, by text.", "vectors", ge=0)
    ] = 20_000

    def threads_for(self, workers: int) -> int:
        """Threads of one of `workers` processes on this machine."""
        return self.threads or max(1, (os.cpu_count() or 1) // workers)


class RouterSettings(Section, frozen=True, kw_only=True):
    """The router."""

    max_outstanding_texts: Annotated[
        int, doc("Beyond so many unanswered texts a request is refused at once.", "texts", ge=1)
    ] = 8192
    max_wait: Annotated[
        float,
        doc(
            "A request that would wait longer for its turn is refused at once; one of a client "
            "for which something waits already, half as long. Who comes again when told may wait "
            "longer, by its share.",
            "s",
            gt=0,
        ),
    ] = 6.0
    max_texts: Annotated[int, doc("The most texts of one request.", "texts", ge=1)] = 1024
    max_text_bytes: Annotated[
        int, doc("The longest text, or intent, in UTF-8.", "bytes", ge=1, le=1 << 20)
    ] = 65_536
    peer_timeout: Annotated[
        float, doc("How long a request waits for a skill that only a peer has.", "s", ge=0)
    ] = 2.0
    description_threshold: Annotated[
        float,
        doc("Cosine from which a card that has only a description is routed to.", ge=-1, le=1),
    ] = 0.6
    cache_entries: Annotated[
        int, doc("Base vectors that the router keeps, by text.", "vectors", ge=0)
    ] = 20_000


class ManagerSettings(Section, frozen=True, kw_only=True):
    """The adapter manager."""

    keep_versions: Annotated[
        int, doc("Versions of a skill that stay installed; older ones are retired.", ge=1, le=100)
    ] = 3


class MonitorSettings(Section, frozen=True, kw_only=True):
    """The dissonance monitor: what counts as a clash, and when clashes become a batch."""

    tau: Annotated[float, doc("Temperature of the softmax whose entropy is taken.", gt=0)] = 0.05
    batch_size: Annotated[int, doc("Clashes of one domain that make a batch.", ge=1, le=4096)] = 16
    batch_min: Annotated[
        int, doc("The fewest that do once the oldest is `batch_max_age` old.", ge=1, le=4096)
    ] = 4
    batch_max_age: Annotated[
        float, doc("How long the oldest clash waits for a full batch.", "s", gt=0)
    ] = 600.0
    entropy: Annotated[
        float, doc("A change of entropy beyond this, either way, is a clash.", ge=0, le=1)
    ] = 0.15
    novelty: Annotated[
        float, doc("A query less similar than this to every skill is novel.", ge=-1, le=1)
    ] = 0.3
    breakthrough_rouge: Annotated[
        float, doc("A breakthrough has a ROUGE-L above this ...", ge=0, le=1)
    ] = 0.7
    breakthrough_entropy: Annotated[
        float, doc("... and a change of entropy below this.", ge=-1, le=1)
    ] = -0.1
    passage_sample: Annotated[
        int, doc("Remembered passages of the domain that stand beside those given.", ge=0)
    ] = 64
    passage_memory: Annotated[
        int, doc("Passages that the monitor remembers of each domain.", "passages", ge=0)
    ] = 10_000

    def __post_init__(self) -> None:
        if self.batch_min > self.batch_size:
            raise ValueError("batch_min must not be above batch_size")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections; `Settings()` is the default of everything."""

    fleet: FleetSettings = FleetSettings()
    bus: BusSettings = BusSettings()
    store: StoreSettings = StoreSettings()
    encoder: EncoderSettings = EncoderSettings()
    router: RouterSettings = RouterSettings()
    manager: ManagerSettings = ManagerSettings()
    monitor: MonitorSettings = MonitorSettings()
    distiller: DistillerSettings = DistillerSettings()
    teacher: TeacherSettings = TeacherSettings()
    factory: FactorySettings = FactorySettings()
    federation: FederationSettings = FederationSettings()
    api: ApiSettings = ApiSettings()


def load_settings(
    path: str | os.PathLike[str] | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read a settings file and lay overrides over it.

    `overrides` maps dotted keys (`"fleet.workers"`) to values; None leaves the key as it is.
    Raises `SettingsError`: the file cannot be read or is no TOML, a key is unknown (with the
    nearest known one), a value has the wrong type or is out of range, or two values contradict.
    """
    origin = "settings" if path is None else str(path)
    tables = {} if path is None else _read(Path(path))
    sections = {info.name: info.type for info in msgspec.structs.fields(Settings)}
    for name, table in tables.items():
        _known(origin, name, "section", sections)
        if not isinstance(table, dict):
            raise SettingsError(f"{origin}: {name} must be a section, written [{name}].")
    for key, value in (overrides or {}).items():
        name, _, field = key.partition(".")
        _known("override", name, "section", sections)
        if value is not None:
            tables.setdefault(name, {})[field] = value
    return Settings(
        **{
            name: _section(origin, name, kind, tables.get(name, {}))
            for name, kind in sections.items()
        }
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error


def _section(origin: str, name: str, kind: Any, table: dict[str, Any]) -> Any:
    fields = {field.name: field for field in fields_of(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        _known(origin, key, f"key of [{name}]", fields)
        try:
            values[key] = msgspec.convert(value, fields[key].kind)
        except msgspec.ValidationError as error:
            # What is meant to say where a key is, people take for the place of the key.
            given = "" if key.startswith("key_") else f", not {value!r}"
            raise SettingsError(
                f"{origin}: {name}.{key} must be {fields[key].accepts}{given}."
            ) from error
    try:
        return kind(**values)
    except ValueError as error:
        raise SettingsError(f"{origin}: in [{name}], {error}.") from error


def _known(origin: str, name: str, what: str, known: Iterable[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
    raise SettingsError(f"{origin}: {name} is no {what}; {hint}")
