"""Nodes that learn from each other, in network namespaces on one machine."""
