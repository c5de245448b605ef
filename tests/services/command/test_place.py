"""Who the command speaks as: below the name that its key is bound to."""

from pathlib import Path

import pytest

from bus import MemoryBus
from bus.security import make_client_keys
from schemas import FeedbackGiven
from services.command.intake import Intake
from services.command.place import Place

BUS = "tcp://127.0.0.1:5550"


@pytest.mark.parametrize(
    ("sources", "begins"),
    [([], "/shop/"), (["/desk/7/"], "/desk/7/"), (["/desk/7"], "/desk/7")],
    ids=["by-name", "below", "exactly"],
)
def test_over_tcp_it_speaks_as_its_key_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], begins: str
) -> None:
    pair = make_client_keys(tmp_path, "shop", sources=sources).rename(tmp_path / "moved")
    monkeypatch.setenv("CONSONANCE_KEY", str(pair))
    said = Place(bus=BUS).source()
    assert said.startswith(begins)
    assert (said == begins) == (not begins.endswith("/"))
    assert Place(bus="ipc:///tmp/x").source().startswith("/consonance/")


def test_with_the_fleets_own_keys_it_speaks_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSONANCE_KEY", str(tmp_path))
    assert Place(bus=BUS).source().startswith("/consonance/")
    monkeypatch.delenv("CONSONANCE_KEY")
    assert Place(bus=BUS).source().startswith("/consonance/")


async def test_what_it_gives_bears_that_name_too() -> None:
    async with MemoryBus(source="/shop/17-ab") as bus:
        intake = Intake(bus, None, say=lambda _: None)
        await intake.add(b'{"query": "q", "relevant": ["a"]}')
        await intake.flush()
        (event,) = (await bus.read(FeedbackGiven)).events
        assert event.source == "/shop/feedback"
