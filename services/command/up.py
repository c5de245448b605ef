"""`consonance up`: what `run_all.py` does, with the same options."""

from __future__ import annotations

from services.command.kit import group
from services.fleet import cli

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance up
        two encoder workers, the default model, everything in .consonance

    consonance up --workers 4 --model ./my-model --state ~/consonance
        a model of your own: a folder, or a hub id

    consonance up --print-config > consonance.toml
    consonance up --config consonance.toml
        every setting, with meaning, unit and default; then with your changes

    consonance up --bus tcp://0.0.0.0:5550
        for clients on other machines, each with a key of its own (CURVE)

Ctrl-C stops the fleet in order, a second one kills it (130).
"""

app = group(
    "up",
    "Start the whole fleet: the broker, the encoder workers and everything that learns.",
    _EXAMPLES,
)
if cli.app.default_command is not None:
    app.default(cli.app.default_command)
