"""How trainings tell how far they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Progress", "Steps"]

Progress = Callable[[int, int, float], None]
"""Called with step, steps and loss."""


class Steps:
    """Counts the steps of several fits at once; their threads call it as they please."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._wanted = 0

    def expect(self, steps: int) -> None:
        """So many steps more will come; less where it is negative."""
        self._wanted += steps

    def tell(self, loss: float, steps: int = 1) -> None:
        """These were taken."""
        with self._lock:
            self._done += steps
            if self._progress is not None:
                self._progress(self._done, max(self._wanted, self._done), loss)

    def finish(self, loss: float) -> None:
        """Nothing more will come."""
        if self._progress is not None:
            self._progress(self._done, self._done, loss)
