"""The transport: one contract, carried in memory or over ZeroMQ."""

from __future__ import annotations

from bus.connect import connect
from bus.contract import (
    Bus,
    Consumer,
    DeadLetter,
    Delivery,
    GroupState,
    JournalPage,
    Kinds,
    Start,
    Statistics,
    Subscription,
)
from bus.errors import (
    BusError,
    Closed,
    Consumed,
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
    "Consumed",
    "Consumer",
    "Damaged",
    "DeadLetter",
    "Delivery",
    "DiskFull",
    "GroupState",
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
