"""A folder of cards, each named by the digest of its bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar, Final

from lora import layout
from lora.card import DEFAULT_MAX_BYTES, EXTENSION, LoRACard, LoRAFormat
from lora.errors import CardDigestError, CardNotFoundError

__all__ = ["CardStore"]

_FILE: Final = re.compile(r"[0-9a-f]{64}" + re.escape(EXTENSION))
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class CardStore:
    """Cards as `<64 hex>.lora.arrow` in one folder, written beside and renamed.

    Any number of processes may put and open; a file, once there, never changes.
    """

    fetches: ClassVar[bool] = False
    """Whether a card may have to come from elsewhere, which takes its time."""

    def __init__(self, folder: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the card of this digest lies, whether it is there or not."""
        if _DIGEST.fullmatch(digest) is None:
            raise CardDigestError(
                f"a digest is 'sha256:' and 64 hexadecimal digits, not {digest!r}"
            )
        return self.folder / (digest.removeprefix("sha256:") + EXTENSION)

    def put(self, card: LoRACard) -> LoRACard:
        """Write the card; what comes back is read from the store and knows its digest."""
        data = LoRAFormat.encode(card)
        digest = layout.digest_of_bytes(data)
        path = self.path(digest)
        if not path.exists():
            layout.write_atomically(path, data)
        return self.open(digest)

    def adopt(self, file: str | Path, digest: str) -> LoRACard:
        """Move a finished file of the same file system into the store, once it is verified.

        Raises:
            CardError: it is not a sound card of that digest; the file stays where it was.
        """
        file, path = Path(file), self.path(digest)
        LoRAFormat.read(file, digest=digest, max_bytes=self.max_bytes)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        file.replace(path)
        layout.sync_folder(self.folder)
        return self.open(digest)

    def open(self, digest: str) -> LoRACard:
        """The card of this digest, verified and mapped."""
        path = self.path(digest)
        try:
            return LoRAFormat.read(path, digest=digest, max_bytes=self.max_bytes)
        except CardNotFoundError:
            if path.exists():  # and is something else than a file
                raise
            raise CardNotFoundError(f"the store has no card {digest}") from None

    def bring(self, digest: str) -> Path:
        """The card's file on this machine, not looked into; raises `CardNotFoundError`."""
        path = self.path(digest)
        if not path.exists():
            raise CardNotFoundError(f"the store has no card {digest}")
        return path

    def share(self, digest: str) -> None:
        """Have everybody who uses the store find a card that lies in its folder, as here they do;
        raises `CardNotFoundError`."""
        self.bring(digest)

    def digests(self) -> list[str]:
        """The digests of all cards in the store, sorted."""
        return sorted(
            "sha256:" + name.removesuffix(EXTENSION)
            for name in os.listdir(self.folder)
            if _FILE.fullmatch(name)
        )

    def delete(self, digest: str) -> bool:
        """Remove the file; whether it was there. Mappings of it stay valid."""
        try:
            self.path(digest).unlink()
        except FileNotFoundError:
            return False
        layout.sync_folder(self.folder)
        return True
