"""The command from outside: what it prints, what it writes, what it exits with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.federation.authority import Credentials
from services.federation.commands import main
from services.federation.identity import NodeKey, default_node_name
from services.federation.trust import Trusted, TrustList

ROOT = Path(__file__).resolve().parents[3]
ANNA, BEN = NodeKey.generate(), NodeKey.generate()

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def ran(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return ran


def test_a_node_shows_its_key_and_makes_it_where_there_is_none(run: Run, tmp_path: Path) -> None:
    code, out, err = run("key")

    own = NodeKey.load_or_create(tmp_path / ".consonance/keys/node.key")
    assert (code, err) == (0, "")
    assert re.findall(r"\S+$", out, re.MULTILINE) == [
        own.public,
        own.fingerprint,
        default_node_name(own),
    ]
    code, out, _ = run("key", "--json", "--state", ".consonance")
    assert json.loads(out) == {
        "public": own.public,
        "fingerprint": own.fingerprint,
        "node": default_node_name(own),
    }


def test_the_settings_name_the_node(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('[federation]\nnode = "attic"\n')
    _, out, _ = run("key", "--config", "fleet.toml", "--json")
    assert json.loads(out)["node"] == "attic"
    run("authority", "create", "ca")
    run("authority", "issue", "ca", "--state", "s", "--config", "fleet.toml")
    assert Credentials.load(tmp_path / "s/keys/tls", "attic") is not None


def test_trust_is_given_shown_and_taken(run: Run, tmp_path: Path) -> None:
    trust = TrustList(tmp_path / "s/keys/trusted", None)

    assert run("trust", "list", "--state", "s") == (0, "", "")
    assert run("trust", "add", ANNA.public, "Anna's laptop", "--state", "s") == (
        0,
        f"trusted: {ANNA.public} Anna's laptop\n",
        "",
    )
    assert run("trust", "add", BEN.public, "--state", "s")[0] == 0
    assert run("trust", "add", BEN.public, "--state", "s")[1].startswith("trusted already: ")
    assert trust.entries() == (Trusted(ANNA.public, "Anna's laptop"), Trusted(BEN.public, ""))
    _, out, _ = run("trust", "list", "--state", "s")
    assert out.splitlines() == [
        f"{ANNA.fingerprint}  {ANNA.public} Anna's laptop",
        f"{BEN.fingerprint}  {BEN.public}",
    ]
    _, out, _ = run("trust", "list", "--state", "s", "--json")
    assert json.loads(out)["trusted"][1] == {
        "public": BEN.public,
        "fingerprint": BEN.fingerprint,
        "name": "",
    }
    assert run("trust", "remove", "Anna's laptop", "--state", "s")[0] == 0
    assert run("trust", "remove", BEN.fingerprint, "--state", "s")[0] == 0
    assert trust.entries() == ()
    assert run("trust", "remove", BEN.public, "--state", "s") == (
        0,
        f"was not trusted: {BEN.public}\n",
        "",
    )


def test_what_is_wrong_with_the_list_is_told_beside_it(run: Run, tmp_path: Path) -> None:
    run("trust", "add", ANNA.public, "--state", tmp_path)
    with (tmp_path / "keys/trusted").open("a") as file:
        file.write("nonsense\n")

    code, out, err = run("trust", "list", "--json", "--state", tmp_path)

    assert code == 0
    assert len(json.loads(out)["trusted"]) == 1
    assert "line 2, is skipped: it does not begin with a public key" in err


def test_certificates_for_this_machine_and_for_another(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("authority", "create", "ca", "--name", "Our nodes", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "Our nodes"
    _, out, _ = run("key", "--state", "s", "--json")
    node = json.loads(out)["node"]

    assert run("authority", "issue", "ca", "--state", "s")[0] == 0
    code, out, _ = run("authority", "issue", "ca", "b", "--out", "for-b", "--days", 30, "--json")

    assert code == 0
    said = json.loads(out)
    here = Credentials.load(tmp_path / "s/keys/tls", node)
    there = Credentials.load(tmp_path / "for-b", "b")
    assert here is not None
    assert there is not None
    assert said["folder"] == "for-b"
    assert said["expires"] == f"{there.expires:%Y-%m-%dT%H:%M:%SZ}"
    assert here.authority == there.authority


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("bogus", "Unknown command"),
        ("key --bogus", "Unknown option"),
        ("key --config absent.toml", "absent.toml"),
        ("trust add", "PUBLIC"),
        ("trust add nonsense", "that is no public key"),
        ("trust remove anna", "cannot be changed"),
        ("authority issue absent b --out b", "there is no authority in absent"),
        ("authority issue ca b", "say NODE and --out FOLDER, or --state FOLDER"),
        ("authority issue ca --out b", "say NODE and --out FOLDER, or --state FOLDER"),
        ("authority issue ca b --out b --state s", "say NODE and --out FOLDER"),
        ("authority issue ca B --out b", "no certificate is issued for 'B'"),
        ("authority create ca", "exists already"),
        ("authority create new --days 0", "1 to 36500 days"),
        ("authority create new --days soon", "soon"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(run: Run, words: str, why: str) -> None:
    run("authority", "create", "ca")

    code, out, err = run(*words.split())

    assert (code, out) == (2, "")
    assert err.startswith("python -m services.federation.commands: ")
    assert err.count("\n") == 1
    assert why in err


@pytest.mark.parametrize(
    "words",
    ["", "key", "trust", "trust add", "trust remove", "trust list", "authority", "authority issue"],
)
def test_help_has_examples_and_exit_codes(run: Run, words: str) -> None:
    code, out, _ = run(*words.split(), "--help")

    assert code == 0
    assert "Examples:" in out
    assert "Exit codes: 0 done" in out


def test_from_a_shell_and_light(tmp_path: Path) -> None:
    """Neither pyarrow nor torch nor gRPC is loaded for keys, trust and certificates."""
    command = [sys.executable, "-X", "importtime", "-m", "services.federation.commands"]

    said = subprocess.run(
        [*command, "key", "--json", "--state", str(tmp_path / "s")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(said.stdout)["public"].startswith("ed25519:")
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in said.stderr.splitlines()}
    assert "cryptography" in loaded
    assert not loaded & {"pyarrow", "torch", "numpy", "lora", "bus"}
