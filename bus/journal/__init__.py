"""The journal: durable events, their order, their leases, and what keeps their file sound."""

from bus.journal.journal import Entry, Journal, Stored

__all__ = ["Entry", "Journal", "Stored"]
