"""A node of the federation without a fleet: the cards of a folder, shared from a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec
import structlog

from lora.card import LoRACard, LoRAFormat
from lora.errors import CardError
from lora.store import CardStore
from schemas import SkillCard
from services.federation import manifest
from services.federation.errors import FederationError
from services.federation.gateway import Gateway
from services.federation.offers import Offers
from services.runtime.cards import describe
from services.runtime.settings import FederationSettings

__all__ = ["FederationNode"]

WAIT: Final = 3.0
"""Seconds for which a node that has just started waits for peers to be found."""

T = TypeVar("T")


class FederationNode:
    """Serves the cards of `folder/cards` to peers and fetches theirs. Blocking; close it.

    Its key, its trust list and its certificates lie in `folder/keys`, as a fleet's do. What it
    fetched it passes on under its author's signature.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        model: str | None = None,
        settings: FederationSettings | None = None,
    ) -> None:
        """`model` is the SHA-256 of the base model whose cards are wanted; None takes any."""
        self.folder = Path(folder)
        self.store = CardStore(self.folder / "cards")
        self.gateway: Gateway | None = None
        self._model = model
        self._settings = settings or FederationSettings()
        self._log: Any = structlog.get_logger(service="federation")
        self._offers: Offers | None = None
        self._heard = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start_federation(self, port: int = 0) -> str:
        """Serve the folder's cards, and look for peers; the endpoint, as Flight writes it.

        Raises a `FederationError` where the key, the certificates or the port forbid it.
        """
        if self.gateway is not None:
            return self.gateway.endpoint.uri
        settings = _with(self._settings, port=port or self._settings.port)
        gateway = Gateway(
            settings,
            keys=self.folder / "keys",
            store=self.store,
            incoming=self.folder / "federation" / "incoming",
            model=self._model,
            heard=self,
            log=self._log,
        )
        self.gateway, self._offers = gateway, Offers(gateway.client.refusal)
        self._foreign.mkdir(mode=0o700, parents=True, exist_ok=True)
        for digest in self.store.digests():
            self._serve_again(digest)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, args=(self._loop,), name="federation")
        self._thread.daemon = True
        self._thread.start()
        self._run(gateway.open()).result()
        return gateway.endpoint.uri

    def share(self, card: LoRACard) -> SkillCard:
        """Put a card into the folder, sign it, and serve it from now on."""
        gateway = self._started()
        stored = card if card.digest is not None else self.store.put(card)
        signed = manifest.sign(describe(stored), gateway.key)
        gateway.catalogue.put(signed, self.store.path(signed.digest))
        return signed

    def sync_remote_skills(self, *, wait: float = WAIT) -> tuple[LoRACard, ...]:
        """Fetch every card that trusted authors offer here, and open it; those that are new.

        Waits at most `wait` seconds for the first peer. What is refused is logged and left out.
        """
        gateway, offers = self._started(), self._offers
        if offers is None or not self._heard.wait(wait):
            return ()
        here = set(self.store.digests())
        found = []
        for card in {card.digest: card for _, card in offers.all()}.values():
            if card.digest in here:
                continue
            try:
                fetched = gateway.client.fetch_skill(card.digest)
                found.append(LoRAFormat.read(fetched.path, digest=card.digest, hashed=True))
            except (FederationError, CardError) as error:
                self._log.warning("card refused", skill=card.name, why=str(error))
                if isinstance(error, CardError):
                    self.store.delete(card.digest)
                continue
            self._description(card.digest).write_bytes(msgspec.json.encode(card))
            gateway.catalogue.put(card, self.store.path(card.digest))
        return tuple(found)

    def close(self) -> None:
        """Leave the federation; the cards stay."""
        gateway, self.gateway = self.gateway, None
        if gateway is None or self._loop is None:
            return
        self._run(gateway.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()

    # What the gateway hears of peers -------------------------------------------------------------

    async def joined(self, peer: str, endpoint: str) -> None:
        """A peer answers for the first time."""

    async def offers(self, peer: str, cards: tuple[SkillCard, ...]) -> None:
        """What it offers now."""
        if self._offers is not None:
            for _, card, error in self._offers.put(peer, cards):
                self._log.warning("card refused", peer=peer, skill=card.name, why=str(error))
        self._heard.set()

    async def left(self, peer: str, endpoint: str) -> None:
        """It answers no more."""
        if self._offers is not None:
            self._offers.remove(peer)

    def _serve_again(self, digest: str) -> None:
        """A card that was here before the start: its author's, or else this node's own."""
        try:
            card = msgspec.json.decode(self._description(digest).read_bytes(), type=SkillCard)
        except FileNotFoundError:
            self.share(self.store.open(digest))
            return
        except msgspec.MsgspecError as error:
            self._log.warning("card not served", digest=digest, why=str(error))
            return
        self._started().catalogue.put(card, self.store.path(digest))

    @property
    def _foreign(self) -> Path:
        """Descriptions of fetched cards, with their authors' signatures."""
        return self.folder / "federation" / "foreign"

    def _description(self, digest: str) -> Path:
        return self._foreign / f"{digest.removeprefix('sha256:')}.json"

    @staticmethod
    def _turn(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()

    def _started(self) -> Gateway:
        if self.gateway is None:
            raise FederationError("this node does not federate yet: call start_federation first")
        return self.gateway

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            raise FederationError("this node has not started to federate")
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _with(settings: FederationSettings, **changes: Any) -> FederationSettings:
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return FederationSettings(**(fields | changes))
