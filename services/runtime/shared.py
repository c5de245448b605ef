"""What machines share beside the bus: cards and datasets, in an object store where there is one."""

from __future__ import annotations

from lora.card import DEFAULT_MAX_BYTES, EXTENSION
from lora.object_place import ObjectPlace
from lora.objects import Objects
from lora.remote_store import FOLDER, RemoteCardStore
from lora.store import CardStore
from services.runtime.settings import StoreSettings
from services.runtime.state import StateFolder

__all__ = ["card_store", "shared_datasets"]

DATASETS = "datasets"
"""Below the object store's place."""


def card_store(
    settings: StoreSettings, state: StateFolder, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> CardStore:
    """The fleet's cards; nothing is asked of an object store before the first use."""
    place = _place(settings)
    if place is None:
        return CardStore(state.cards, max_bytes=max_bytes)
    objects = Objects(place, FOLDER, EXTENSION, deadline=settings.deadline)
    return RemoteCardStore(
        state.cards, objects, cache_bytes=settings.cache_bytes, max_bytes=max_bytes
    )


def shared_datasets(settings: StoreSettings) -> Objects | None:
    """The fleet's datasets in the object store; None: they are in the state folder alone."""
    place = _place(settings)
    if place is None:
        return None
    return Objects(place, DATASETS, ".parquet", deadline=settings.deadline)


def _place(settings: StoreSettings) -> ObjectPlace | None:
    if settings.url is None:
        return None
    return ObjectPlace(settings.url, settings.endpoint, settings.region, settings.ca_file)
