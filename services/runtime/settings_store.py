"""The settings of the card and dataset store: typed, with unit, default and range."""

from __future__ import annotations

from typing import Annotated

from services.runtime.settings_base import Section, doc

__all__ = ["StoreSettings"]


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where cards and datasets are kept that several machines share."""

    url: Annotated[
        str | None,
        doc(
            "`s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///FOLDER`; not set: the state "
            "folder. A prefix is one fleet's alone. Credentials come from the environment, the "
            "provider's own files or the machine's role."
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        doc(
            "`http(s)://HOST:PORT` of a server that speaks the protocol; not set: the provider's. "
            "Without TLS one of `gs://` is an emulator, and is asked without credentials."
        ),
    ] = None
    region: Annotated[
        str | None,
        doc("Region of S3; not set: the bucket's own, or with an endpoint `us-east-1`."),
    ] = None
    ca_file: Annotated[
        str | None, doc("PEM file of the authorities by which S3's certificate is checked.")
    ] = None
    cache_bytes: Annotated[
        int,
        doc(
            "What cards from the store may take of the state folder; the least used leave it, but "
            "none that is open.",
            "bytes",
            ge=1 << 20,
        ),
    ] = 2 << 30
    deadline: Annotated[
        float,
        doc("How long one operation may take, with all attempts and the transfer.", "s", ge=1),
    ] = 30.0

    def __post_init__(self) -> None:
        if self.url is None and (self.endpoint or self.region or self.ca_file):
            raise ValueError("endpoint, region and ca_file need a url")
        if self.url is not None:  # what it refuses is a `ValueError`
            from lora.object_place import ObjectPlace  # most who read settings need none of lora

            ObjectPlace(self.url, self.endpoint, self.region, self.ca_file)
