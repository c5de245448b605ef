"""The transport: one contract, carried in memory or over ZeroMQ."""

from __future__ import annotations

from bus.connect import connect
from bus.contract import (
    Bus,
    Consumer,
    DeadLetter,
    Delivery,
    JournalPage,
    Kinds,
    Start,
    Statistics,
    Subscription,
)
from bus.errors import (
    BusError,
    Closed,
    DiskFull,
    InsecureFolder,
    InUse,
    InvalidKey,
    InvalidUrl,
    NotPermitted,
    ReadOnly,
    Refused,
    RequestTimeout,
    StaleLease,
    TooLarge,
    Unreachable,
)
from bus.memory import MemoryBus
from bus.settings import BrokerSettings, InvalidSettings

__all__ = [
    "BrokerSettings",
    "Bus",
    "BusError",
    "Closed",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "DiskFull",
    "InUse",
    "InsecureFolder",
    "InvalidKey",
    "InvalidSettings",
    "InvalidUrl",
    "JournalPage",
    "Kinds",
    "MemoryBus",
    "NotPermitted",
    "ReadOnly",
    "Refused",
    "RequestTimeout",
    "StaleLease",
    "Start",
    "Statistics",
    "Subscription",
    "TooLarge",
    "Unreachable",
    "connect",
]
