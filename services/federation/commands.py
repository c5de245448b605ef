"""The command line of a node's identity: its key, whom it trusts, its certificates."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from services.errors import ServiceError
from services.federation import trust as trust_file
from services.federation.authority import Certified, create_authority
from services.federation.authority import issue as issue_certificate
from services.federation.identity import NodeKey, default_node_name
from services.federation.trust import Trusted, TrustList
from services.runtime.settings import load_settings

__all__ = ["main"]

DONE, FAILED, REFUSED = 0, 1, 2
_NAME = "python -m services.federation.commands"
_STATE = Path(".consonance")

_CODES = "\nExit codes: 0 done, 1 the disk or the machine failed, 2 the input was refused.\n"

_EXAMPLES = f"""
Examples:

    {_NAME} key
        this node's public key, which goes to whoever shall accept its skills

    {_NAME} trust add ed25519:… laptop
        accept the skills that the node of that key has learned

    {_NAME} authority create ./ca
    {_NAME} authority issue ./ca b --out ./b
        certificates, without which nodes meet on one machine only
{_CODES}"""

_KEY_EXAMPLES = f"""
Examples:

    {_NAME} key
        public key, fingerprint and name of the node in .consonance

    {_NAME} key --state ~/consonance --json
        the same for programs, of another state folder
{_CODES}"""

_TRUST_EXAMPLES = f"""
Examples:

    {_NAME} trust add ed25519:… laptop
        accept that node's skills; a running fleet heeds it at once

    {_NAME} trust list
    {_NAME} trust remove laptop
        by its name, its fingerprint or its public key
{_CODES}"""

_AUTHORITY_EXAMPLES = f"""
Examples:

    {_NAME} authority create ./ca
        once, on one machine; authority.key stays there

    {_NAME} \\
        authority issue ./ca --state .consonance
        the certificate of the node on this machine

    {_NAME} authority issue ./ca b --out ./b
        that of node b on another machine, for STATE/keys/tls there
{_CODES}"""

_FLAG = Parameter(negative="", show_default=False)
_UNSAID = Parameter(show_default=False)


def _app(name: str, text: str, examples: str) -> App:
    return App(
        name=name,
        help=text,
        help_epilogue=examples,
        help_format="plaintext",
        version_flags=[],
        result_action="return_value",
    )


app = _app(_NAME, "Who this node is, whom it trusts, and its certificates.", _EXAMPLES)
trust = _app("trust", "Whose skills this node accepts.", _TRUST_EXAMPLES)
authority = _app("authority", "Certificates for mutual TLS between nodes.", _AUTHORITY_EXAMPLES)
app.command(trust)
app.command(authority)


@app.command(help_epilogue=_KEY_EXAMPLES)
def key(
    *, state: Path = _STATE, config: Path | None = None, json: Annotated[bool, _FLAG] = False
) -> int:
    """Show this node's public key, fingerprint and name; make its key where it has none.

    Parameters
    ----------
    state
        The node's state folder
    config
        The fleet's settings file, which may name the node. Default: none
    json
        Write JSON
    """
    own = NodeKey.load_or_create(_keys(state) / "node.key")
    name = _node_name(own, config)
    if json:
        _print_json({"public": own.public, "fingerprint": own.fingerprint, "node": name})
    else:
        print(f"public key   {own.public}\nfingerprint  {own.fingerprint}\nnode         {name}")
    return DONE


@trust.command(help_epilogue=_TRUST_EXAMPLES)
def add(public: str, name: Annotated[str, _UNSAID] = "", /, *, state: Path = _STATE) -> int:
    """Accept the skills of an author.

    Parameters
    ----------
    public
        The author's public key, as `key` shows it there
    name
        What people call it; given again, it is called so from then on
    state
        The node's state folder
    """
    new = trust_file.add(_keys(state) / "trusted", public, name)
    print(f"{'trusted' if new else 'trusted already'}: {Trusted(public, name)}")
    return DONE


@trust.command(help_epilogue=_TRUST_EXAMPLES)
def remove(who: str, /, *, state: Path = _STATE) -> int:
    """Accept the skills of an author no longer.

    Parameters
    ----------
    who
        Its public key, its fingerprint or its name
    state
        The node's state folder
    """
    gone = trust_file.remove(_keys(state) / "trusted", who)
    for one in gone:
        print(f"no longer trusted: {one}")
    if not gone:
        print(f"was not trusted: {who}")
    return DONE


@trust.command(name="list", help_epilogue=_TRUST_EXAMPLES)
def list_(*, state: Path = _STATE, json: Annotated[bool, _FLAG] = False) -> int:
    """Show whose skills are accepted, besides the node's own.

    Parameters
    ----------
    state
        The node's state folder
    json
        Write JSON
    """
    found = TrustList(_keys(state) / "trusted", None, report=_say).entries()
    if json:
        keys = [{"public": o.public, "fingerprint": o.fingerprint, "name": o.name} for o in found]
        _print_json({"trusted": keys})
    else:
        for one in found:
            print(f"{one.fingerprint}  {one}")
    return DONE


@authority.command(help_epilogue=_AUTHORITY_EXAMPLES)
def create(
    folder: Path,
    /,
    *,
    name: str = "Consonance federation",
    days: int = 3650,
    json: Annotated[bool, _FLAG] = False,
) -> int:
    """Make an authority, whose key issues the certificates of all nodes.

    Parameters
    ----------
    folder
        Where authority.crt and authority.key are written; no node needs the key
    name
        What the certificate calls it
    days
        How long it is valid
    json
        Write JSON
    """
    _tell_made(create_authority(_expanded(folder), name, days), json=json)
    return DONE


@authority.command(help_epilogue=_AUTHORITY_EXAMPLES)
def issue(
    folder: Path,
    node: str | None = None,
    /,
    *,
    state: Path | None = None,
    out: Path | None = None,
    days: int = 365,
    config: Path | None = None,
    json: Annotated[bool, _FLAG] = False,
) -> int:
    """Issue a node's certificate: node.crt, node.key and authority.crt.

    Parameters
    ----------
    folder
        The authority's folder
    node
        The node's name. Default: that of the node whose state folder is given
    state
        Write straight into this state folder, for a node on this machine
    out
        Write into this folder, to be carried to another machine
    days
        How long it is valid, at most as long as the authority
    config
        The fleet's settings file, which may name the node. Default: none
    json
        Write JSON
    """
    if state is not None and out is None:
        keys = _keys(state)
        out = keys / "tls"
        if node is None:
            node = _node_name(NodeKey.load_or_create(keys / "node.key"), config)
    elif state is not None or out is None or node is None:
        return _tell("say NODE and --out FOLDER, or --state FOLDER for the node there", REFUSED)
    made = issue_certificate(_expanded(folder), node, _expanded(out), days)
    _tell_made(made, json=json)
    return DONE


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line and exit; every refusal is one sentence on standard error."""
    try:
        code = app(
            list(sys.argv[1:] if words is None else words), exit_on_error=False, print_error=False
        )
    except (CycloptsError, ServiceError) as error:
        code = _tell(str(error), REFUSED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _tell(f"cannot go on: {error.strerror or error}{where}", FAILED)
    sys.exit(code or DONE)


def _node_name(own: NodeKey, config: Path | None) -> str:
    return load_settings(config).federation.node or default_node_name(own)


def _keys(state: Path) -> Path:
    return _expanded(state) / "keys"


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # nobody's home: then it is a name like any other
        return path


def _tell_made(made: Certified, *, json: bool) -> None:
    if json:
        _print_json(
            {
                "folder": str(made.folder),
                "name": made.name,
                "sha256": made.fingerprint,
                "expires": f"{made.expires:%Y-%m-%dT%H:%M:%SZ}",
            }
        )
    else:
        print(f"{made.folder}: {made.name}, valid until {made.expires:%Y-%m-%d}")
        print(f"SHA-256 of the certificate: {made.fingerprint}")


def _print_json(words: dict[str, Any]) -> None:
    print(json_module.dumps(words, indent=2))


def _say(text: str) -> None:
    print(f"{_NAME}: {' '.join(text.split())}", file=sys.stderr)


def _tell(text: str, code: int) -> int:
    _say(text)
    return code


if __name__ == "__main__":
    main()
