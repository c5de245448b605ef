"""The domain: signatures and docstrings of the standard library of the running interpreter.

`consonance evaluate` has them as a folder, too (`services.command.evaluation.example`), so they are
read in one place.
"""

from services.command.evaluation.standard_library import Pair, Split, pairs, split, walk

__all__ = ["Pair", "Split", "pairs", "split", "walk"]
