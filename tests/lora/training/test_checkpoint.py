"""Work put away in a folder: found again as it was, by the same training only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lora.training.checkpoint import Checkpoints


def test_what_was_put_away_is_found_again_bit_for_bit(tmp_path: Path) -> None:
    arrays = {
        "half": np.linspace(0, 1, 7, dtype=np.float32)[::2],
        "step": np.array(3.0, np.float32),
        "alpha": np.array([1 / 3]),
        "none": np.zeros((0, 4), np.float32),
    }
    place = tmp_path / "kept"
    Checkpoints(place, "mine").put("work", arrays, {"loss": 1 / 3, "names": ["a"]})
    found = Checkpoints(place, "mine").get("work")
    assert found is not None
    assert found.state == {"loss": 1 / 3, "names": ["a"]}
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)


def test_another_training_finds_nothing(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    Checkpoints(place, "mine").put("work", {}, {})
    assert Checkpoints(place, "another").get("work") is None
    assert Checkpoints(place, "mine").get("work") is None
    assert Checkpoints.spent(place) == 0.0


def test_time_spent_before_counts(tmp_path: Path) -> None:
    now = [100.0]
    first = Checkpoints(tmp_path / "kept", "mine", clock=lambda: now[0])
    now[0] += 7.5
    first.put("work", {}, {})
    now[0] = 3.0
    second = Checkpoints(tmp_path / "kept", "mine", clock=lambda: now[0])
    now[0] += 1.0
    assert second.elapsed() == 8.5
    assert Checkpoints.spent(tmp_path / "kept") == 7.5


def test_a_damaged_file_is_work_to_be_done_again(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    kept = Checkpoints(place, "mine")
    for name, raw in (("torn", b"\x08\x00"), ("empty", b"")):
        kept.put(name, {"a": np.ones(3)}, {})
        (place / f"{name}.safetensors").write_bytes(raw)
        assert kept.get(name) is None
    kept.drop("torn")
    kept.drop("never there")
    kept.clear()
    assert not place.exists()


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Checkpoints()
    kept.put("work", {"a": np.ones(3)}, {})
    assert kept.get("work") is None
    assert not kept.kept
    assert kept.elapsed() >= 0
