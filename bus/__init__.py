"""The transport: one contract, carried in memory or over ZeroMQ."""
