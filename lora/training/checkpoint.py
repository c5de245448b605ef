"""What a training has done so far, in a folder: after a kill it goes on from there.

Every file appears whole or not at all. A folder holds the work of one training only: whoever opens
it under another identity begins with an empty one.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from lora.layout import write_atomically

__all__ = ["Checkpoints", "Kept"]

log = logging.getLogger(__name__)

_IDENTITY = "identity"
_SPENT = "spent"
_STATE = "consonance.state"
_SUFFIX = ".safetensors"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Kept:
    """One piece of work as it was put away."""

    arrays: Arrays
    state: Mapping[str, Any]


class Checkpoints:
    """Named pieces of work in a folder, and the time that they took. For several threads at once.

    Without a folder nothing is kept, and nothing is ever found.
    """

    def __init__(
        self,
        folder: Path | None = None,
        identity: str = "",
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder, emptied where it holds the work of another identity.

        Args:
            identity: everything that the result depends on, as one string.
            every_s: seconds between two checkpoints inside one fit; 0 for one at each step.
        """
        self.every_s, self._folder, self._clock = every_s, folder, clock
        self._lock = threading.Lock()
        self._before = 0.0
        self._begun = clock()
        if folder is None:
            return
        if _text(folder / _IDENTITY) != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            write_atomically(folder / _IDENTITY, identity.encode())
        try:
            self._before = max(0.0, float(_text(folder / _SPENT) or 0.0))
        except ValueError:
            log.warning("the time spent on %s before is not known", folder)

    @property
    def kept(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def elapsed(self) -> float:
        """Seconds of work on this training, those before an interruption included."""
        return self._before + self._clock() - self._begun

    def get(self, name: str) -> Kept | None:
        """What was put away under this name; None where nothing readable was."""
        if self._folder is None:
            return None
        path = self._folder / (name + _SUFFIX)
        try:
            with safe_open(path, "np") as opened:
                state = json.loads((opened.metadata() or {})[_STATE])
                arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("%s cannot be read, its work is done again: %s", path, error)
            return None
        return Kept(arrays, state)

    def put(self, name: str, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Put a piece of work away, in the place of what had this name."""
        if self._folder is None:
            return
        whole = {key: np.asarray(array, order="C") for key, array in arrays.items()}
        raw = safetensors.numpy.save(whole, {_STATE: json.dumps(dict(state))})
        write_atomically(self._folder / (name + _SUFFIX), raw)
        with self._lock:
            write_atomically(self._folder / _SPENT, repr(self.elapsed()).encode())

    def drop(self, name: str) -> None:
        """Forget what has this name, if anything has."""
        if self._folder is not None:
            (self._folder / (name + _SUFFIX)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the folder: the work is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def spent(folder: Path) -> float:
        """Seconds of work that a folder stands for; 0 where it holds none."""
        try:
            return max(0.0, float(_text(folder / _SPENT) or 0.0))
        except ValueError:
            return 0.0


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
