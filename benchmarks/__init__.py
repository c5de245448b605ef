"""Benchmarks: `python -m benchmarks.NAME` prints a table, `--json` adds one JSON line."""
