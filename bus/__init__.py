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
    Damaged,
    DiskFull,
    InsecureFolder,
    InUse,
    InvalidKey,
    InvalidRoles,
    InvalidUrl,
    NotPermitted,
    OverQuota,
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
    "Damaged",
    "DeadLetter",
    "Delivery",
    "DiskFull",
    "InUse",
    "InsecureFolder",
    "InvalidKey",
    "InvalidRoles",
    "InvalidSettings",
    "InvalidUrl",
    "JournalPage",
    "Kinds",
    "MemoryBus",
    "NotPermitted",
    "OverQuota",
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
