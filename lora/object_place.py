"""Where an object store is: its address taken apart, and the file system that speaks to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from lora.errors import ConfigError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["SCHEMES", "STALL_S", "ObjectPlace"]

SCHEMES: Final = ("s3", "gs", "file")

CONNECT_S: Final = 2.0
STALL_S: Final = 5.0
"""Seconds without a byte after which one attempt is given up."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


@dataclass(frozen=True)
class ObjectPlace:
    """`s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, or `file:///FOLDER` that several machines mount.

    Credentials are never part of it: they come from the environment, the user's own files or the
    machine's role, as each provider's programs find them.
    """

    url: str
    endpoint: str | None = None
    """`http(s)://HOST:PORT` of a server that speaks the protocol; None: the provider's own.
    Of `gs://` one without TLS is an emulator: it is asked without credentials."""
    region: str | None = None
    """Of S3 alone; None: as the bucket says, or with an endpoint `us-east-1`."""
    ca_file: str | None = None
    """PEM file with the authorities that the endpoint's certificate is checked by (S3 alone)."""

    def __post_init__(self) -> None:
        """Raises `ConfigError`."""
        try:
            parts, at = urlsplit(self.url), urlsplit(self.endpoint or "")
            _ = parts.port, at.port
        except ValueError as error:
            raise ConfigError("the store's url or endpoint is no address") from error
        if "@" in parts.netloc or "@" in at.netloc or parts.query or at.query:
            # Said without the value: it may be a secret.
            raise ConfigError(
                "the store's url and endpoint hold no credentials and no options: keys come from "
                "the environment, the provider's own files or the machine's role"
            )
        if parts.scheme not in SCHEMES or parts.fragment:
            raise ConfigError(
                f"the store's url begins with {', '.join(f'{s}://' for s in SCHEMES)}, "
                f"not {self.url!r}"
            )
        if parts.scheme == "file":
            if parts.netloc or not parts.path.startswith("/") or self.endpoint:
                raise ConfigError(f"a store in a folder is file:///FOLDER, not {self.url!r}")
        elif _BUCKET.fullmatch(parts.netloc) is None:
            raise ConfigError(f"the store's url names no bucket: {self.url!r}")
        if any(step in (".", "..") for step in parts.path.split("/")):
            raise ConfigError(f"the store's url goes through . or ..: {self.url!r}")
        if self.endpoint and (at.scheme not in ("http", "https") or at.path.strip("/")):
            raise ConfigError(f"an endpoint is http(s)://HOST:PORT, not {self.endpoint!r}")
        if self.endpoint and not at.hostname:
            raise ConfigError(f"the endpoint names no host: {self.endpoint!r}")
        if parts.scheme != "s3" and (self.region or self.ca_file):
            raise ConfigError(
                f"region and ca_file are for s3:// alone, and the store's url is {self.url!r}"
            )

    @property
    def scheme(self) -> str:
        """`s3`, `gs` or `file`."""
        return urlsplit(self.url).scheme

    @property
    def bucket(self) -> str:
        """The bucket; of a folder, the folder."""
        parts = urlsplit(self.url)
        return unquote(parts.path).rstrip("/") if parts.scheme == "file" else parts.netloc

    @property
    def root(self) -> str:
        """What every key begins with: bucket and prefix, without a slash at the end."""
        parts = urlsplit(self.url)
        if parts.scheme == "file":
            return self.bucket
        return f"{parts.netloc}/{unquote(parts.path).strip('/')}".rstrip("/")

    @property
    def words(self) -> str:
        """How sentences name it."""
        return f"{self.url} at {self.endpoint}" if self.endpoint else self.url

    def connect(self, stall: float = STALL_S) -> FileSystem:
        """The file system; it may ask the provider for the bucket's region.

        One attempt a request, given up after `stall` seconds without a byte (at least one; Google's
        client only after two minutes): who calls tries again, within a deadline. Raises `OSError`.
        """
        from pyarrow import fs  # some 30 ms, and S3's own threads: only where there is a store

        at = urlsplit(self.endpoint) if self.endpoint else None
        if self.scheme == "file":
            Path(self.root).mkdir(parents=True, exist_ok=True)
            return fs.LocalFileSystem()
        if self.scheme == "gs":
            return fs.GcsFileSystem(
                # No token of ours travels where anybody can read it.
                anonymous=at is not None and at.scheme == "http",
                **({"scheme": at.scheme, "endpoint_override": at.netloc} if at else {}),
                retry_time_limit=timedelta(seconds=1),  # shorter than the pause before a second
            )
        region = self.region
        if region is None:
            region = "us-east-1" if at else fs.resolve_s3_region(self.bucket)
        return fs.S3FileSystem(
            **({"scheme": at.scheme, "endpoint_override": at.netloc} if at else {}),
            region=region,
            connect_timeout=min(CONNECT_S, stall),
            request_timeout=max(1.0, stall),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            background_writes=False,
            allow_delayed_open=True,  # what is small goes up in one request
            tls_ca_file_path=self.ca_file,
        )
