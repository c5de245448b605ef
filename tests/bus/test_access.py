"""Roles, keys and their files; what they come to on a wire is tried in test_access_tcp."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import bus
import schemas
from bus.__main__ import main
from bus.access.keys import Ring
from bus.access.quota import Once, Quota
from bus.access.roles import READY, load_roles
from bus.security import admit, make_client_keys, read_public, revoke, speaker
from bus.seldom import AT_ONCE, Seldom
from tests.bus.kit import short_folder


@pytest.fixture
def keys() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "keys"


def public(keys: Path, name: str) -> bytes:
    return read_public(keys / f"{name}.key_secret")


# roles


def test_no_role_hears_more_by_zeromqs_prefixes_than_it_names() -> None:
    kinds = schemas.catalogue()
    for role in READY.values():
        heard, _ = role.heard()
        for one in heard:
            longer = {name for name in kinds if name.startswith(one) and not kinds[one].addressed}
            assert longer <= heard, role.name
        assert schemas.EventRefused.type not in role.published()


@pytest.mark.parametrize("role", ["client", "observer"])
def test_what_holds_texts_or_vectors_is_for_neither_client_nor_observer(role: str) -> None:
    heard, anybodys = READY[role].heard()
    assert not anybodys
    private = {
        name for name in schemas.catalogue() if name.startswith(("feedback.", "generation."))
    }
    private |= {"dissonance.detected", "learning.batch_queued", "encode.requested"}
    assert not private & heard


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("publish =", "no TOML"),
        ("[client]\n", "ready-made"),
        ('[r]\npublish = ["no.such"]', "no event type is called 'no.such'"),
        ('[r]\nsubscribe = ["encode.nothing@*"]', "no event type"),
        ('[r]\nsubscribe = ["skill.retire"]', r"hears skill\.retired, too"),
        ('[r]\npublish = ["event.refused"]', "nobody but the broker"),
        ('[r]\npublishes = ["skill.pin"]', "publishes"),
        ('[r]\nname = "s"', "heading"),
        ("[r]\nfeedback_per_hour = -1", ">= 0"),
        ("[r]\ntexts_per_minute = 0", ">= 1"),
        ('[r]\nadminister = ["all"]', "all"),
        ("r = 1", "'r'"),
    ],
)
def test_roles_that_cannot_be_used_are_told_in_a_sentence(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(text)
    with pytest.raises(bus.InvalidRoles, match=why):
        load_roles(path)


def test_a_role_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text('[audit]\nsubscribe = ["skill.*"]\nconsume = ["audit-*"]\n')
    role = load_roles(path)["audit"]
    assert role.consumes("audit-1")
    assert not role.consumes("distiller")
    assert role.published() == frozenset()
    assert "skill.retired" in role.heard()[0]


# keys


def test_a_key_is_admitted_as_its_file_says_now(keys: Path) -> None:
    make_client_keys(keys, "laptop")
    changed: list[frozenset[str]] = []
    ring = Ring(keys, changed.append)
    one = public(keys, "laptop")
    assert ring.admitted(one) == "laptop"
    admit(keys, "laptop", role="observer")
    assert ring.admitted(one) == "laptop"
    assert ring.grants["laptop"].role.name == "observer"
    revoke(keys, "laptop")
    assert ring.admitted(one) is None
    assert changed == [{"laptop"}] * 3
    assert not list(keys.glob("laptop*"))


def test_a_key_without_a_role_is_a_clients(keys: Path) -> None:
    pair = make_client_keys(keys, "old", role="admin")
    text = (keys / "clients" / "old.key").read_text()
    (keys / "clients" / "old.key").write_text(text[text.index("curve") :])
    grant = Ring(keys).grants["old"]
    assert (grant.role.name, grant.sources) == ("client", ("/old/",))
    assert speaker(pair) == "/old/"


def test_whoever_may_change_a_key_file_does_not_admit_himself(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_client_keys(keys, "laptop")
    admitted = keys / "clients" / "laptop.key"
    assert stat.S_IMODE(admitted.stat().st_mode) == 0o600
    assert stat.S_IMODE(admitted.parent.stat().st_mode) == 0o700
    admitted.chmod(0o620)
    assert Ring(keys).admitted(public(keys, "laptop")) is None
    assert "may be changed by others" in caplog.text
    admitted.parent.chmod(0o770)
    with pytest.raises(bus.InsecureFolder, match="0770"):
        Ring(keys)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "a"}, {"name": "b", "sources": ["/a/1/"]}),
        ({"name": "a"}, {"name": "a-b"}),
        ({"name": "g1", "sources": ["/x/g-1"]}, {"name": "g2", "sources": ["/x/g-10"]}),
        ({"name": "router", "role": "service"}, {"name": "a", "sources": ["/router/"]}),
    ],
    ids=["below", "address", "exact", "service"],
)
def test_keys_whose_answers_could_not_be_told_apart_are_not_both_admitted(
    keys: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    for one in (first, second):
        make_client_keys(keys, **one)  # type: ignore[arg-type]
    assert set(Ring(keys).grants) == {first["name"]}


def test_a_place_within_the_fleets_own_may_be_anothers(keys: Path) -> None:
    make_client_keys(keys, "encoder", role="service")
    make_client_keys(keys, "far", role="encoder", sources=["/encoder/far"])
    assert set(Ring(keys).grants) == {"encoder", "far"}


def test_a_copy_of_a_key_under_another_name_does_not_outlive_it(keys: Path) -> None:
    make_client_keys(keys, "laptop")
    copied = (keys / "clients" / "laptop.key").read_text()
    (keys / "clients" / "tablet.key").write_text(copied.replace("laptop", "tablet"))
    (keys / "clients" / "tablet.key").chmod(0o600)
    assert set(Ring(keys).grants) == {"laptop"}


def test_roles_that_become_unusable_leave_everybody_their_rights(keys: Path) -> None:
    keys.mkdir()
    (keys / "roles.toml").write_text('[audit]\nsubscribe = ["skill.*"]\n')
    make_client_keys(keys, "laptop", role="audit")
    ring = Ring(keys)
    (keys / "roles.toml").write_text("nonsense")
    ring.look()
    assert ring.grants["laptop"].role.name == "audit"
    (keys / "roles.toml").unlink()
    ring.look()
    assert "laptop" not in ring.grants


def test_strangers_do_not_make_the_broker_read_all_keys_each_time(keys: Path) -> None:
    now = [0.0]
    make_client_keys(keys, "laptop")
    ring = Ring(keys, clock=lambda: now[0])
    looks = 0
    look = ring.look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    ring.look = counted  # type: ignore[method-assign]
    for _ in range(1000):
        assert ring.admitted(b"x" * 40) is None
    assert looks <= 20
    assert ring.admitted(public(keys, "laptop")) == "laptop"


def test_who_was_put_out_may_come_back_after_a_minute(keys: Path) -> None:
    now = [0.0]
    make_client_keys(keys, "laptop")
    ring = Ring(keys, clock=lambda: now[0])
    ring.put_out("laptop")
    ring.look()
    assert ring.admitted(public(keys, "laptop")) is None
    now[0] = 61.0
    ring.look()
    assert ring.admitted(public(keys, "laptop")) == "laptop"


@pytest.mark.parametrize("source", ["laptop", "/a//b", "/a b/", "/a-/", "/broker/1", '/a"/', ""])
def test_what_is_no_source_is_refused(keys: Path, source: str) -> None:
    with pytest.raises(bus.InvalidKey):
        make_client_keys(keys, "laptop", sources=[source])
    assert not keys.exists()


# the command


def test_keys_are_made_listed_and_revoked_by_a_command(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["--state", str(keys.parent), "keys", *words])
        return code, *capsys.readouterr()

    gpu = ("client", "gpu-1", "--role", "encoder", "--source", "/encoder/gpu-1")
    assert run(*gpu) == (0, f"{keys}/gpu-1.key_secret\n", "")
    assert speaker(keys / "gpu-1.key_secret") == "/encoder/gpu-1"
    assert run("client", "shop")[0] == 0
    code, _, said = run("client", "shop-2")
    assert (code, said.count("\n")) == (1, 1)
    assert "'shop'" in said
    assert "there is no role 'no'" in run("client", "x", "--role", "no")[2]
    listed = run("list")[1].splitlines()
    assert [line.split()[:2] for line in listed] == [["gpu-1", "encoder"], ["shop", "client"]]
    assert listed[0].endswith("/encoder/gpu-1")
    assert run("revoke", "gpu-1") == (0, "", "")
    assert run("revoke", "gpu-1")[0] == 1
    assert run("revoke", "../broker")[0] == 1
    assert len(run("list")[1].splitlines()) == 1


def test_the_roles_are_shown_as_they_may_stand_in_a_file(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(keys.parent), "keys", "roles"]) == 0
    shown = capsys.readouterr().out
    keys.mkdir()
    (keys / "roles.toml").write_text(shown.replace("[client]", "[mine]").partition("[obs")[0])
    mine = load_roles(keys / "roles.toml")["mine"]
    assert mine.heard() == READY["client"].heard()
    assert mine.published() == READY["client"].published()


# limits


def test_a_quota_fills_up_again_within_the_hour() -> None:
    now = [0.0]
    quota = Quota(60, lambda: now[0])
    assert quota.take(60) == 0.0
    assert quota.take(1) == pytest.approx(60.0)
    now[0] = 120.0
    assert quota.take(2) == 0.0
    assert quota.take(61) == float("inf")
    assert Quota(0, lambda: now[0]).take(1) == float("inf")
    assert Quota(None).take(10**9) == 0.0


def test_what_is_sent_again_counts_once_in_a_minute() -> None:
    now = [0.0]
    once = Once(60, lambda: now[0])
    assert [once.take("a", 40) for _ in range(5)] == [0.0] * 5
    assert once.take("b", 40) == pytest.approx(20.0)
    assert once.take("a", 40) == 0.0
    now[0] = 20.0
    assert once.take("b", 40) == 0.0
    now[0] = 60.0  # a minute after "a", and 40 have come back since
    assert once.take("a", 41) == pytest.approx(1.0)
    assert once.take("b", 40) == 0.0
    assert once.take("c", 61) == float("inf")
    assert [Once(None, lambda: now[0]).take(n, 10**9) for n in range(3)] == [0.0] * 3


def test_what_a_quota_remembers_is_bounded_by_it() -> None:
    now = [0.0]
    once = Once(10, lambda: now[0])
    for n in range(10_000):
        once.take(n, 0)  # a request without texts counts as one
        now[0] += 0.1
    assert len(once._counted) <= 20


def test_what_was_not_logged_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    seldom = Seldom(logging.getLogger("t"), lambda: now[0])
    for _ in range(100):
        seldom.warning("refused %s", "it")
    assert len(caplog.records) == AT_ONCE
    now[0] = 5.0
    seldom.warning("refused %s", "it")
    assert caplog.messages[-1] == "refused it (and 90 more like it)"
