"""Who may do what on `tcp://`: keys, their roles, and the door at which they are asked for."""

from bus.access.rights import ANY, Grant, Sources, address_patterns, overlap

__all__ = ["ANY", "Grant", "Sources", "address_patterns", "overlap"]
