"""Words for routers, joined: each assignment is told once, in order, in events that fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas import EncodeFinished, Event, encode, frames, from_frames
from services.encoder.answers import MOST, Word, together


def word(
    number: int, router: str = "router-1", failed: str | None = None, request: str = "r"
) -> Word:
    data = EncodeFinished(request_id=request, worker="encoder-1", failed=failed)
    return Event(data=data, source="/encoder/1", to=router, causation_id=f"assignment {number}")


def told(words: list[Word]) -> dict[str | None, list[tuple[str | None, str, str | None]]]:
    """What each router reads."""
    found: dict[str | None, list[tuple[str | None, str, str | None]]] = {}
    for each in words:
        heard = from_frames(frames(each))
        of = found.setdefault(heard.to, [])
        of.append((heard.causation_id, heard.data.request_id, heard.data.failed))
        of.extend((more.assignment, more.request_id, more.failed) for more in heard.data.also)
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["router-1", "router-2"]),
            st.sampled_from([None, "deadline", "internal"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        ),
        max_size=30,
    ),
    st.integers(0, 3_000),
)
def test_everybody_reads_the_same_however_it_is_told(
    given: list[tuple[str, str | None, str]], most: int
) -> None:
    words = [word(number, *each) for number, each in enumerate(given)]
    joined = together(words, most)
    assert told(joined) == told(words)
    assert all(len(encode(each)) <= most or not each.data.also for each in joined)


def test_where_there_is_room_a_router_hears_one_word() -> None:
    words = [word(n, f"router-{n % 2}") for n in range(60)]
    assert [(each.to, len(each.data.also)) for each in together(words, 2**20)] == [
        ("router-0", 29),
        ("router-1", 29),
    ]


def test_a_single_word_is_left_as_it_is() -> None:
    alone = word(1)
    assert together([alone], 2**20) == [alone]


def test_a_word_tells_of_so_many_and_no_more() -> None:
    joined = together([word(n) for n in range(2 * MOST + 1)], 2**20)
    assert [1 + len(each.data.also) for each in joined] == [MOST, MOST, 1]
