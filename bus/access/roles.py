"""Roles: ready-made ones, and one's own in STATE/keys/roles.toml.

    [auditor]
    about = "reads what became of skills"
    subscribe = ["skill.*", "training.rejected"]
    consume = ["audit-*"]

A name that ends in `*` stands for all that begin so. An addressed type means what is addressed to
the key itself; with `@*` (`encode.completed@*`) what is addressed to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

import schemas
from bus.errors import InvalidRoles
from schemas.toml import parse_toml

__all__ = ["CLIENT", "READY", "Role", "load_roles"]

BROKERS_ALONE: Final = frozenset({schemas.EventRefused.type})
"""What no key may publish."""
TO_ANYBODY: Final = "@*"


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the keys of one kind may do; nothing where nothing is said."""

    name: str = ""
    about: str = ""
    """For people."""
    publish: tuple[str, ...] = ()
    """Types that it may publish, over ingress or by `append` and `ack`."""
    subscribe: tuple[str, ...] = ()
    """Types that it may hear; of those, durable ones may be read in the journal, too."""
    consume: tuple[str, ...] = ()
    """Groups as which it may lease what it may hear."""
    administer: tuple[Literal["dead", "groups", "erase"], ...] = ()
    """What of the journal it may look after: dead letters; groups; erasing."""
    feedback_per_hour: Annotated[int, Meta(ge=0)] | None = 2_000
    """Pieces of feedback from all sources of a key together; None (ready-made ones only): any."""
    texts_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """Texts that all sources of a key together may ask to have embedded; None: any."""
    connections: Annotated[int, Meta(ge=1)] = 1024
    """Connections of a key to each of the broker's three sockets; a client of ours has one each."""

    def published(self) -> frozenset[str]:
        """The types that it may publish."""
        found = {name for pattern in self.publish for name in _matching(pattern)}
        return frozenset(found - BROKERS_ALONE)

    def heard(self) -> tuple[frozenset[str], frozenset[str]]:
        """The types that it may hear; and those of them where they are addressed to anybody."""
        anybody = {
            name
            for pattern in self.subscribe
            if pattern.endswith(TO_ANYBODY)
            for name in _matching(pattern.removesuffix(TO_ANYBODY))
        }
        own = {
            name
            for pattern in self.subscribe
            if not pattern.endswith(TO_ANYBODY)
            for name in _matching(pattern)
        }
        # What is refused is told to everybody who may publish.
        return frozenset(anybody | own | BROKERS_ALONE), frozenset(anybody)

    def consumes(self, group: str) -> bool:
        """Whether it may lease as this group."""
        return any(
            group.startswith(one[:-1]) if one.endswith("*") else group == one
            for one in self.consume
        )


def _matching(pattern: str) -> Sequence[str]:
    names = schemas.catalogue()
    if pattern.endswith("*"):
        return [name for name in names if name.startswith(pattern[:-1])]
    return [pattern] if pattern in names else []


_SKILLS: Final = (
    "skill.published",
    "skill.fetched",
    "skill.installed",
    "skill.rejected",
    "skill.retired",
    "skill.discovered",
    "skill.unavailable",
    "skill.listed",
)

_PUBLIC: Final = (
    *_SKILLS,
    "skill.retire",
    "skill.pin",
    "skill.wanted",
    "adapter.loaded",
    "adapter.unloaded",
    "adapter.failed",
    "training.requested",
    "training.progressed",
    "training.rejected",
    "learning.batch_rejected",
    "domain.forget",
    "domain.forgotten",
    "peer.joined",
    "peer.left",
    "fleet.heartbeat",
    "fleet.stop",
)
"""What tells how the fleet does, and holds no text of anybody."""

CLIENT: Final = Role(
    name="client",
    about="encodes, gives feedback, hears its own answers and what is said of skills",
    publish=("encode.requested", "feedback.given", "generation.observed", "skill.list_requested"),
    subscribe=(
        "encode.completed",
        "encode.failed",
        *_SKILLS,
        "domain.forget",
        "domain.forgotten",
        "fleet.heartbeat",
    ),
)

READY: Final[Mapping[str, Role]] = {
    role.name: role
    for role in (
        CLIENT,
        Role(
            name="observer",
            about="watches how the fleet does; no text or vector of anybody",
            publish=("skill.list_requested",),
            subscribe=_PUBLIC,
            feedback_per_hour=0,
        ),
        Role(
            name="encoder",
            about="an encoder on another machine: works off what is assigned to it",
            publish=(
                "encode.completed",
                "encode.failed",
                "encode.finished",
                "adapter.loaded",
                "adapter.unloaded",
                "adapter.failed",
                "fleet.heartbeat",
            ),
            subscribe=(
                "encode.assigned",
                "adapter.load",
                "adapter.unload",
                "fleet.heartbeat",
                "fleet.stop",
            ),
            feedback_per_hour=0,
        ),
        Role(
            name="service",
            about="the fleet's own processes: all but dead letters, groups and stopping the fleet",
            publish=tuple(name for name in schemas.catalogue() if name != "fleet.stop"),
            subscribe=("*", f"*{TO_ANYBODY}"),
            consume=("*",),
            administer=("erase",),
            feedback_per_hour=None,
        ),
        Role(
            name="admin",
            about="everything, under its own name",
            publish=("*",),
            subscribe=("*", f"*{TO_ANYBODY}"),
            consume=("*",),
            administer=("dead", "groups", "erase"),
            feedback_per_hour=None,
        ),
    )
}


def load_roles(path: Path) -> Mapping[str, Role]:
    """The ready-made roles and those of the file, if it is there; raises `InvalidRoles`."""
    try:
        tables = parse_toml(path.read_bytes())
    except FileNotFoundError:
        return READY
    except OSError as e:
        raise InvalidRoles(f"cannot read the roles {path}: {e.strerror}") from e
    except ValueError as e:
        raise InvalidRoles(f"the roles {path} are no TOML: {e}") from e
    found = dict(READY)
    for name, table in tables.items():
        try:
            found[name] = _role(name, table)
        except (ValueError, msgspec.ValidationError) as e:
            raise InvalidRoles(f"the role {name!r} of {path} cannot be used: {e}") from e
    return found


def _role(name: str, table: object) -> Role:
    if name in READY:
        raise ValueError("there is a ready-made one of that name: choose another")
    if isinstance(table, dict) and "name" in table:
        raise ValueError("its name stands in its heading, not in the table")
    role = msgspec.structs.replace(msgspec.convert(table, Role), name=name)
    if role.feedback_per_hour is None:
        raise ValueError("feedback_per_hour is a number")
    kinds = schemas.catalogue()
    for pattern in (*role.publish, *(one.removesuffix(TO_ANYBODY) for one in role.subscribe)):
        if not _matching(pattern):
            raise ValueError(f"no event type is called {pattern!r}")
    for pattern in role.publish:
        if pattern in BROKERS_ALONE:
            raise ValueError(f"nobody but the broker publishes {pattern}")
    heard, _ = role.heard()
    for one in heard:
        for other in kinds:
            # ZeroMQ filters by prefix: whoever hears the shorter topic gets the longer one, too.
            if other.startswith(one) and other not in heard and not kinds[one].addressed:
                raise ValueError(f"whoever hears {one} hears {other}, too: name both, or neither")
    return role
