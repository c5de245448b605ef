"""Who shares the work: the same for all who hear the same, and nobody's where it must not be."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.siblings import SILENCE, Siblings

NAMES = [f"router-{number}" for number in range(5)]
TOPICS = [f"/client/{number % 7}\n{number}" for number in range(400)]


def crew(*names: str, at: float = 0.0) -> dict[str, Siblings]:
    """Each of them has heard all of them."""
    found = {name: Siblings(name) for name in names}
    for siblings in found.values():
        for name in names:
            siblings.hear(name, "ready", at)
    return found


def shares(of: dict[str, Siblings], now: float = 0.0) -> dict[str, list[str]]:
    return {topic: [name for name, it in of.items() if it.is_mine(topic, now)] for topic in TOPICS}


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_everything_is_exactly_ones_and_nobody_has_most_of_it(names: list[str]) -> None:
    found = shares(crew(*names))
    assert all(len(takers) == 1 for takers in found.values())
    for name in names:
        share = sum(takers == [name] for takers in found.values()) / len(found)
        assert 0.5 / len(names) < share < 1.6 / len(names)


def test_who_goes_moves_its_own_share_alone() -> None:
    before, after = shares(crew(*NAMES)), shares(crew(*NAMES[:-1]))
    moved = {topic for topic in TOPICS if before[topic] != after[topic]}
    assert moved == {topic for topic in TOPICS if before[topic] == [NAMES[-1]]}


def test_silence_and_an_orderly_end_are_noticed() -> None:
    of = crew("router-1", "router-2")
    one = of["router-1"]
    one.hear("router-1", "ready", SILENCE)
    assert one.others(SILENCE) == ("router-2",)
    late = SILENCE + 0.1
    assert one.others(late) == ()
    assert all(one.is_mine(topic, late) for topic in TOPICS)
    assert one.hear("router-2", "ready", late), "it is back"
    assert not one.hear("router-2", "degraded", late), "and still is"
    assert one.hear("router-2", "draining", late)
    assert one.count(late) == 1


def test_who_hears_nobody_does_everything_and_who_is_new_nothing_until_others_know() -> None:
    alone = Siblings("router-1")
    assert all(alone.is_mine(topic, 0.0) for topic in TOPICS)
    alone.hear("router-2", "ready", 0.0)
    assert not any(alone.is_mine(topic, 0.0) for topic in TOPICS)
    alone.hear("router-1", "ready", 0.0)
    assert 0 < sum(alone.is_mine(topic, 0.0) for topic in TOPICS) < len(TOPICS)
