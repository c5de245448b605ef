"""The bus that services hold: the contract, over any link to a broker."""

from bus.client.client import ClientBus

__all__ = ["ClientBus"]
