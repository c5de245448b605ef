"""The bus beyond one machine: the contract over NATS, the journal in JetStream.

names        where the servers are, and what things are called on them
connection   the connection, and requests that outlive a lost one
server       what is asked of JetStream, with its errors as ours
streams      the three streams of a fleet
frames       an event and its attachments in one message
live         what arrives: put in order, durable events numbered
group        a group's leases, as a value
groups       the same in a stream, changed by compare and set
journal      the journal's requests
link         all of it as a `Link`
"""

from __future__ import annotations

from bus.nats.link import NatsLink
from bus.nats.names import Place, place_of

__all__ = ["NatsLink", "Place", "place_of"]
