"""What `GET /v1/status` says in the states that the page has to show; as JSON, by the contract."""

from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["NOW", "after", "at", "card", "empty", "learning"]

Json = dict[str, Any]

NOW = datetime(2026, 3, 14, 9, 30, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    """RFC 3339, so many seconds from `NOW`."""
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def digest(letter: str) -> str:
    """A digest that is easily told from others."""
    return "sha256:" + letter * 64


def empty() -> Json:
    """A fleet that is up and has neither answered nor learned anything."""
    plain = ("broker", "router", "adapter_manager", "dissonance_monitor", "distiller", "factory")
    copies = [(name, "1", 40 + 9 * n) for n, name in enumerate(plain)]
    copies += [("encoder", "1", 625), ("encoder", "2", 611), ("federation", "1", 109)]
    copies += [("api", "1", 58)]
    return {
        "time": at(0),
        "since": at(-340),
        "model": {"id": "all-MiniLM-L6-v2", "sha256": "5" * 64, "dim": 384},
        "processes": [
            {
                "service": service,
                "instance": instance,
                "pid": 4100 + n,
                "state": "ready",
                "queue": 0,
                "rss_bytes": mib << 20,
                "age_s": 0.8,
                "counters": {},
                "trouble": None,
            }
            for n, (service, instance, mib) in enumerate(copies)
        ],
        "requests": {
            "minute": {"requests": 0, "texts": 0, "failed": 0, "p50_ms": None, "p95_ms": None},
            "history": [],
        },
        "loop": {"batch_size": 16, "domains": []},
        "skills": [],
        "peers": [],
        "journal": {"sequence": 0, "heads": {}},
    }


def busy() -> Json:
    """Five minutes of requests."""
    swing = [0, 3, 5, 4, 7, 9, 8, 6, 9, 12, 11, 9]
    history = [
        {
            "time": at(5.0 * n - 300),
            "requests": 12 + swing[n % 12] + n // 4,
            "failed": 0,
            "p50_ms": 10.5 + swing[n % 12] / 4,
            "p95_ms": 19.0 + swing[(n * 5) % 12],
        }
        for n in range(60)
    ]
    minute = {"requests": 384, "texts": 1219, "failed": 0, "p50_ms": 11.8, "p95_ms": 24.3}
    return {"minute": minute, "history": history}


def verdict(seconds: float, published: bool, version: int | None, depth: str, *at_: float) -> Json:
    """One verdict of the gate; the figures are gain, low and high."""
    gain, low, high = at_
    found = "beats what is served now" if published else "does not beat what is served now"
    return {
        "time": at(seconds),
        "skill": "banking",
        "published": published,
        "version": version,
        "depth": depth,
        "reason": f"{found}: MRR@10 0.712 → {0.712 + gain:.3f} on 248 query groups",
        "before": 0.712,
        "after": round(0.712 + gain, 3),
        "gain": gain,
        "low": low,
        "high": high,
        "groups": 248,
    }


def card(name: str, version: int, letter: str, **more: Any) -> Json:
    """One skill of the list."""
    return {
        "name": name,
        "version": version,
        "digest": digest(letter),
        "state": "installed",
        "pinned": False,
        "rank": 8,
        "bytes": 201_344,
        "description": f"Questions about {name}, as people ask them.",
        "applies_to": ["query"],
        "before": 0.712,
        "after": 0.781,
        "gain": 0.069,
        "low": 0.041,
        "high": 0.098,
        "parents": [],
        "created": at(-900),
        "signer": None,
        "peer": None,
        "workers": ["encoder/1", "encoder/2"],
        **more,
    }


def learning() -> Json:
    """One domain in training, another with an open batch, a peer in sight."""
    status = empty()
    status["since"] = at(-7_640)
    status["requests"] = busy()
    status["loop"]["domains"] = [
        {
            "domain": "banking",
            "open": 11,
            "clashes": 91,
            "feedback": 248,
            "last": at(-4),
            "training": {
                "task_id": "task-7",
                "phase": "body",
                "step": 240,
                "steps": 600,
                "loss": 0.412,
                "depth": "body",
            },
            "verdicts": [
                verdict(-95, True, 1, "head", 0.069, 0.041, 0.098),
                verdict(-640, False, None, "head", 0.012, -0.014, 0.039),
            ],
        },
        {
            "domain": "python-stdlib",
            "open": 5,
            "clashes": 5,
            "feedback": 19,
            "last": at(-51),
            "training": None,
            "verdicts": [],
        },
    ]
    status["skills"] = [card("banking", 1, "a", created=at(-95))]
    status["peers"] = [
        {
            "peer": "london",
            "endpoint": "grpc+tls://10.0.4.12:8815",
            "skills": [{"name": "travel", "version": 3, "digest": digest("9")}],
        }
    ]
    status["journal"] = {"sequence": 1204, "heads": {"feedback.given": 1199}}
    return status


def after() -> Json:
    """At rest: two versions of one skill, a second skill, one from a peer."""
    status = learning()
    banking, stdlib = status["loop"]["domains"]
    banking |= {"open": 0, "training": None}
    banking["verdicts"] = [
        verdict(-12, True, 2, "body", 0.021, 0.008, 0.035),
        *banking["verdicts"],
        verdict(-900, False, None, "head", -0.006, -0.031, 0.018),
    ]
    stdlib |= {"open": 0, "clashes": 16, "feedback": 61}
    stdlib["verdicts"] = [
        verdict(-200, True, 1, "head", 0.049, 0.036, 0.061) | {"skill": "python-stdlib"}
    ]
    status["skills"] = [
        card(
            "banking",
            2,
            "b",
            parents=[digest("a")],
            created=at(-12),
            before=0.781,
            after=0.802,
            gain=0.021,
            low=0.008,
            high=0.035,
        ),
        card("banking", 1, "a", state="kept", workers=[]),
        card("python-stdlib", 1, "c", gain=0.049, low=0.036, high=0.061, created=at(-200)),
        card(
            "travel",
            3,
            "9",
            peer="london",
            signer="ed25519:" + "7f" * 32,
            workers=["encoder/1"],
            created=at(-90_000),
        ),
    ]
    status["journal"]["sequence"] = 1288
    return status
