"""The state folder: where each thing lies, and who may write there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StateFolder"]


@dataclass(frozen=True)
class StateFolder:
    """Paths below one root; folders are made on first use, for their owner only."""

    root: Path

    @property
    def cards(self) -> Path:
        """Cards by digest; written by factory, federation and import, deleted by the manager."""
        return self._made(self.root / "cards")

    @property
    def datasets(self) -> Path:
        """Training datasets by digest; the distiller's."""
        return self._made(self.root / "datasets")

    @property
    def keys(self) -> Path:
        """Key files, each 0600."""
        return self._made(self.root / "keys")

    @property
    def logs(self) -> Path:
        """Log files."""
        return self._made(self.root / "logs")

    def of(self, service: str) -> Path:
        """The folder that only `service` touches."""
        return self._made(self.root / service)

    @staticmethod
    def _made(path: Path) -> Path:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path
