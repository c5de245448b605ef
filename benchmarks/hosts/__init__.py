"""A fleet on three hosts: its throughput, a cut cable, a host that is gone."""
