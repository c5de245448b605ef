"""The broker: its sockets, and what it does with what comes over them."""

from bus.broker.broker import Broker

__all__ = ["Broker"]
