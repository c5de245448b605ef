"""`python -m lora.core` takes anew the notes on the default model, which the package carries."""

from __future__ import annotations

import torch

from lora.core.facts import CARRIED
from lora.core.noted import Notes
from lora.core.select import core_for
from lora.encoder import SentenceModel
from lora.manager import LoRAManager
from lora.model import find_model


def main() -> None:
    """Write them in place of those that are there."""
    found = find_model(None)
    model = SentenceModel(found.folder, torch.device("cpu"))
    core = core_for(model, LoRAManager(model.root, dim=model.dim))
    for old in CARRIED.glob("*.json"):
        old.unlink()
    Notes(found.folder, found.base_model.sha256, CARRIED, None).take(model, core)


if __name__ == "__main__":
    main()
