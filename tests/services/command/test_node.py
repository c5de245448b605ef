"""A node's identity, and its peers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas import FleetHeartbeat, SkillDiscovered
from services.federation.identity import NodeKey
from services.federation.trust import TrustList
from tests.services.command.conftest import Run
from tests.services.command.fake_fleet import FakeFleet, listed


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("trust add nonsense", "that is no public key"),
        ("trust remove anna", "cannot be changed"),
        ("authority issue absent b --out b", "there is no authority in absent"),
        ("key --config absent.toml", "absent.toml"),
    ],
)
def test_wrong_input_is_one_sentence(run: Run, words: str, why: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_identity_and_trust_are_those_of_federation(run: Run, tmp_path: Path) -> None:
    shown = json.loads(run("key", "--state", "s", "--json").out)
    assert shown["public"] == NodeKey.load_or_create(tmp_path / "s/keys/node.key").public
    anna = NodeKey.generate()
    assert run("trust", "add", anna.public, "anna", "--state", "s").code == 0
    assert TrustList(tmp_path / "s/keys/trusted", None).accepts(anna.public)
    assert anna.fingerprint in run("trust", "list", "--state", "s").out
    assert run("trust", "remove", "anna", "--state", "s").code == 0
    added = json.loads(run("trust", "add", anna.public, "anna", "--state", "s", "--json").out)
    assert (added["fingerprint"], added["new"]) == (anna.fingerprint, True)
    gone = json.loads(run("trust", "remove", "anna", "--state", "s", "--json").out)
    assert gone == {"removed": [{"public": anna.public, "name": "anna"}]}
    assert run("authority", "create", "ca").code == 0
    assert run("authority", "issue", "ca", "b", "--out", "b", "--json").code == 0
    assert (tmp_path / "b/node.crt").exists()


def test_peers_and_what_they_offer(on: Run, fleet: FakeFleet) -> None:
    offer = SkillDiscovered(card=listed("far"), peer="london")

    async def offering() -> None:
        import asyncio

        async def repeat() -> None:
            from schemas import Event

            while True:
                counters = {"federating": 1, "port": 4711, "offers": 1}
                beat = FleetHeartbeat(
                    service="federation",
                    instance="1",
                    pid=1,
                    state="ready",
                    queue=0,
                    rss_bytes=1,
                    counters=counters,
                )
                for data in (offer, beat):
                    await fleet.bus.publish(Event(data=data, source="/federation/1"))
                await asyncio.sleep(0.1)

        fleet._tasks.append(asyncio.create_task(repeat()))

    fleet.do(offering)
    offers = json.loads(on("peers", "--json").out)["offers"]
    assert [(one["peer"], one["name"], one["version"]) for one in offers] == [("london", "far", 1)]
    assert "far@1" in on("peers").out


def test_without_a_gateway_there_are_no_peers(on: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.runtime.client import FleetClient

    found = FleetClient.sync_remote_skills
    monkeypatch.setattr(FleetClient, "sync_remote_skills", lambda self: found(self, timeout=0.3))
    code, _, err = on("peers")
    assert code == 1
    assert "this fleet does not federate now" in err
