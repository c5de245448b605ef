"""Which worker serves: least work first, cards and base vectors count, churn is low."""

from services.router.placement import CARD_COST, Change, Work, Workers, estimate, fingerprint

CARD = "sha256:" + "a" * 64


def workers(*addresses: str) -> Workers:
    fleet = Workers()
    for number, address in enumerate(addresses):
        fleet.beat(address, 100 + number, "ready", now=0.0)
    return fleet


def test_the_worker_with_the_fewest_outstanding_tokens_is_chosen() -> None:
    fleet = workers("encoder-1", "encoder-2")
    fleet.take("encoder-1", 100)
    assert fleet.choose(Work(tokens=10)) == "encoder-2"
    fleet.take("encoder-2", 200)
    assert fleet.choose(Work(tokens=10)) == "encoder-1"
    fleet.take("encoder-2", -200)
    assert fleet.choose(Work(tokens=10)) == "encoder-2"


def test_nobody_is_chosen_where_nobody_is_ready() -> None:
    fleet = Workers()
    assert fleet.choose(Work(tokens=1)) is None
    fleet.beat("encoder-1", 1, "starting", now=0.0)
    assert fleet.choose(Work(tokens=1)) is None
    assert len(fleet) == 0


def test_a_worker_that_has_the_card_is_preferred_unless_it_is_much_busier() -> None:
    fleet = workers("encoder-1", "encoder-2")
    fleet.loaded("encoder-2", CARD)
    fleet.take("encoder-2", CARD_COST - 1)
    assert fleet.choose(Work(tokens=10, cards=(CARD,))) == "encoder-2"
    fleet.take("encoder-2", 2)
    assert fleet.choose(Work(tokens=10, cards=(CARD,))) == "encoder-1"
    fleet.take("encoder-2", -2)
    fleet.unloaded("encoder-2", CARD)
    assert fleet.choose(Work(tokens=10, cards=(CARD,))) == "encoder-1"


def test_held_base_vectors_draw_a_request_as_far_as_they_save_work() -> None:
    fleet = workers("encoder-1", "encoder-2")
    fleet.take("encoder-1", 50)
    work = Work(tokens=60, saved={"encoder-1": 60})
    assert fleet.choose(work) == "encoder-1"
    fleet.take("encoder-1", 20)
    assert fleet.choose(work) == "encoder-2"


def test_equals_are_shared_by_cards_and_only_the_leavers_move() -> None:
    names = [f"encoder-{number}" for number in range(1, 5)]
    sets = [(f"sha256:{number:064x}",) for number in range(200)]
    fleet = workers(*names)
    before = {cards: fleet.choose(Work(tokens=1, cards=cards)) for cards in sets}
    assert set(before.values()) == set(names)

    fleet.beat("encoder-4", 103, "stopped", now=1.0)

    after = {cards: fleet.choose(Work(tokens=1, cards=cards)) for cards in sets}
    moved = {cards for cards in sets if before[cards] != after[cards]}
    assert moved == {cards for cards in sets if before[cards] == "encoder-4"}


def test_heartbeats_tell_who_joins_who_is_lost_and_who_drains() -> None:
    fleet = Workers()
    assert fleet.beat("encoder-1", 1, "starting", now=0.0) is Change.NONE
    assert fleet.beat("encoder-1", 1, "ready", now=1.0) is Change.JOINED
    assert fleet.beat("encoder-1", 1, "ready", now=2.0) is Change.NONE
    assert fleet.beat("encoder-1", 1, "draining", now=3.0) is Change.NONE
    assert "encoder-1" not in fleet
    assert fleet.beat("encoder-1", 2, "ready", now=4.0) is Change.LOST, "another process"
    assert "encoder-1" in fleet
    assert fleet.beat("encoder-1", 2, "stopped", now=5.0) is Change.LOST
    assert "encoder-1" not in fleet


def test_a_silent_worker_is_gone() -> None:
    fleet = workers("encoder-1", "encoder-2")
    fleet.beat("encoder-2", 101, "ready", now=5.0)
    assert fleet.expire(now=5.9) == ()
    assert fleet.expire(now=6.1) == ("encoder-1",)
    assert "encoder-1" not in fleet
    assert "encoder-2" in fleet


def test_a_longer_text_is_more_work_up_to_what_a_model_reads() -> None:
    assert estimate("") < estimate("some words") < estimate("some words " * 20)
    assert estimate("x" * 100_000) == estimate("x" * 1_000_000)


def test_the_same_texts_go_to_the_same_worker_while_loads_are_equal() -> None:
    fleet = workers("encoder-1", "encoder-2", "encoder-3")
    chosen = {}
    for number in range(100):
        tie = fingerprint("query", (f"text {number}",))
        chosen[number] = fleet.choose(Work(tokens=5, tie=tie))
        assert fleet.choose(Work(tokens=9, tie=tie)) == chosen[number]
    assert set(chosen.values()) == {"encoder-1", "encoder-2", "encoder-3"}
    assert fingerprint("query", ("a",)) != fingerprint("document", ("a",))
    assert fingerprint("query", ("a", "b")) != fingerprint("query", ("b", "a"))


def test_a_process_that_starts_again_under_the_same_number_is_another_one() -> None:
    """In a container every process has the number of the one before it."""
    fleet = workers("encoder-1")
    fleet.take("encoder-1", 10)
    assert fleet.beat("encoder-1", 100, "starting", now=1.0) is Change.LOST
    assert fleet.beat("encoder-1", 100, "starting", now=3.0) is Change.NONE
    assert fleet.beat("encoder-1", 100, "ready", now=5.0) is Change.JOINED
    assert fleet.beat("encoder-1", 100, "draining", now=7.0) is Change.NONE
    assert fleet.beat("encoder-1", 100, "starting", now=9.0) is Change.LOST
