"""The federation's benchmark has a form of its own: here it becomes a report like the others."""

from __future__ import annotations

from benchmarks.kit.command import Found
from benchmarks.kit.rounds import Report, compare, figure

__all__ = ["from_federation"]

NAMES = {
    "bare 512": ("Flight do_get, dropped", "pyarrow"),
    "bare 512 file": ("Flight do_get, written", "pyarrow"),
    "sendfile": ("sendfile over TCP, dropped", "kernel"),
    "frames": ("frames alone, dropped", "consonance"),
    "ours streamed": ("hashed and written", "consonance"),
    "ours installed": ("fetched, verified, opened", "consonance"),
    "secured installed": ("the same, mutual TLS", "consonance"),
}
MACHINE = (
    "python",
    "machine",
    "processor",
    "cores",
    "memory_gb",
    "date",
    "others",
    "seconds",
    "commit",
)
PAIRS = (
    ("frames", "bare 512"),
    ("ours streamed", "bare 512 file"),
    ("ours installed", "bare 512 file"),
)


def from_federation(found: Found, command: str) -> Report:
    """Speeds in MB/s, and ratios of speeds; raises `KeyError`, `TypeError` on another form."""
    size = found["bytes"] / 1e6
    speeds = {
        name: [size / seconds for seconds in taken] for name, taken in found["seconds_each"].items()
    }
    grown = {who: value / 1e6 for who, value in found["growth_bytes"].items()}
    return Report(
        name="federation",
        command=command,
        machine={key: found[key] for key in MACHINE if key in found},
        versions={},
        figures=tuple(
            figure(f"{size:.0f} MB, {what}", who, "MB/s", speeds[name])
            for name, (what, who) in NAMES.items()
            if name in speeds
        ),
        comparisons=tuple(
            compare(
                f"{NAMES[ours][0]} beside {NAMES[other][0]}",
                (NAMES[ours][1], speeds[ours]),
                (NAMES[other][1], speeds[other]),
            )
            for ours, other in PAIRS
        ),
        notes=(
            f"memory beyond the mapping grew by {grown['sender']:.1f} MB at the sender and "
            f"{grown['receiver']:.1f} MB at the receiver",
        ),
    )
