"""The rules of versions."""

import pytest

from services.adapter_manager.versions import (
    State,
    Version,
    ranked,
    refusal,
    successor,
    surplus,
)


def version(number: int, state: State = "kept", digest: str | None = None) -> Version:
    return Version(digest or f"digest {number}", number, state)


def test_the_newest_is_installed_and_the_others_are_kept() -> None:
    all_three = [version(1, "installed"), version(3), version(2)]
    assert ranked(all_three) == {
        "digest 3": "installed",
        "digest 2": "kept",
        "digest 1": "kept",
    }
    assert ranked([version(1, "retired"), version(2, "rejected"), version(3, "pending")]) == {}


def test_what_is_beyond_the_kept_ones_is_surplus() -> None:
    versions = [version(number) for number in (4, 1, 3, 2)]
    assert [other.version for other in surplus(versions, 3)] == [1]
    assert surplus(versions, 4) == ()
    assert surplus([*versions, version(5, "retired")], 4) == ()


def test_the_successor_is_the_newest_of_the_others() -> None:
    versions = [version(1), version(2), version(3, "installed"), version(4, "retired")]
    assert successor(versions, "digest 3") == "digest 2"
    assert successor(versions, "digest 4") == "digest 3"
    assert successor([version(1)], "digest 1") is None


@pytest.mark.parametrize(
    ("others", "digest", "number", "says"),
    [
        ([], "new", 1, None),
        ([version(1, "installed")], "new", 2, None),
        ([version(1, "installed")], "digest 1", 1, None),
        ([version(2, "rejected")], "new", 2, None),
        ([version(2, "retired")], "digest 2", 2, "what was retired stays retired"),
        ([version(2, "retired")], "new", 2, "is another card already"),
        ([version(2, "installed")], "new", 2, "is another card already"),
        ([version(2), version(3), version(4)], "new", 1, "older than the last 3"),
        ([version(2), version(4)], "new", 1, None),
        ([version(2), version(3), version(4)], "new", 5, None),
    ],
)
def test_what_may_join_the_versions_of_a_skill(
    others: list[Version], digest: str, number: int, says: str | None
) -> None:
    reason = refusal(others, digest, number, keep=3)
    if says is None:
        assert reason is None
    else:
        assert reason is not None
        assert says in reason
