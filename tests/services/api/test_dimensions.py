"""To which sizes vectors may be cut: those that the model was trained for, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.api.dimensions import Dimensions, trained_sizes
from services.api.errors import InvalidRequest


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"matryoshka_dimensions": [64, 128, 256]}, (64, 128, 256)),
        ({"matryoshka_dimensions": [64, 0, -1, True, "128", 2.5, None]}, (64,)),
        ({"matryoshka_dimensions": 64}, ()),
        ({"hidden_size": 384}, ()),
        ([], ()),
        (None, ()),
    ],
    ids=["sizes", "mixed", "number", "absent", "list", "null"],
)
def test_the_models_config_names_them(tmp_path: Path, config: Any, sizes: tuple[int, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert trained_sizes(tmp_path) == sizes


def test_a_config_that_is_not_there_or_no_json_names_none(tmp_path: Path) -> None:
    assert trained_sizes(tmp_path) == ()
    (tmp_path / "config.json").write_text("{")
    assert trained_sizes(tmp_path) == ()


def test_the_whole_size_is_always_allowed_and_a_larger_one_never() -> None:
    sizes = Dimensions((64, 128, 512))
    sizes.learn(384)

    for allowed in (None, 64, 128, 384):
        sizes.check(allowed)
    for refused in (1, 127, 385, 512):
        with pytest.raises(InvalidRequest, match="must be 64 or 128 or 384"):
            sizes.check(refused)


def test_until_the_models_size_is_known_its_vectors_decide() -> None:
    sizes = Dimensions()
    sizes.check(7)
    sizes.learn(384)
    with pytest.raises(InvalidRequest, match="was not trained to be cut"):
        sizes.check(7)
