"""The settings of the API: typed, with unit, default and range."""

from __future__ import annotations

from typing import Annotated

from services.runtime.settings_base import Section, doc

__all__ = ["ApiSettings"]


class ApiSettings(Section, frozen=True, kw_only=True):
    """The HTTP door: OpenAI's embeddings, feedback, events and the page."""

    enabled: Annotated[bool, doc("Serve over HTTP, beside the bus.")] = True
    host: Annotated[
        str,
        doc(
            "Address to bind. One that other machines reach is refused until there is a key.",
            min_length=1,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        Annotated[int, doc("", ge=1, le=65535)] | None,
        doc("Port to bind; not set: 8321, or any free one where that is taken."),
    ] = None
    max_body_bytes: Annotated[int, doc("The largest body of a request.", "bytes", ge=1 << 10)] = (
        16 << 20
    )
    max_concurrent: Annotated[
        int, doc("Requests at work at a time; beyond it one is refused at once.", ge=1)
    ] = 64
    max_inputs: Annotated[
        int, doc("The most inputs of one embeddings request.", "texts", ge=1, le=65_536)
    ] = 2048
    dimensions: Annotated[
        tuple[int, ...],
        doc(
            "Sizes, below its own, to which the model's vectors may be cut (it was trained as a "
            "Matryoshka); those that its config.json names are known without."
        ),
    ] = ()

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.dimensions):
            raise ValueError("dimensions must be whole numbers from 1 on")
