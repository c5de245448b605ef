"""The bus beyond one machine: the contract over NATS, the journal in JetStream.

names        where the servers are, and what things are called on them
credentials  what a server asks of who connects
connection   the connection, and requests that outlive a lost one
server       what is asked of JetStream, with its errors as ours
streams      the three streams of a fleet
frames       an event and its attachments in one message
live         what arrives: put in order, durable events numbered
stamped      a stored message as readers see it
clock        the servers' time
group        a group's leases, as a value
rooms        the same in a stream, changed by compare and set
groups       what a group's members ask
letters      dead letters
erasing      events that are to be forgotten
journal      the journal's requests
link         all of it as a `Link`
probe        what a fleet wants to know before it starts

Nothing is imported here: the client library is an extra, and not all of this needs it.
"""

from __future__ import annotations

__all__: list[str] = []
