"""A worker that holds a listener: what the listener knows of it, and what the worker says on its belt."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from everycore.core import wire
from everycore.core.listeners import Listing
from everycore.errors import ProtocolError
from everycore.system.belt import Belt
from everycore.system.listeners import BoundSocket
from everycore.system.strange import close_strange

if TYPE_CHECKING:
    from everycore.core.sticky import Seat

log = logging.getLogger("everycore.primary")


class Serving(Protocol):
    """What a worker's driver learns of the listener that serves it."""

    @property
    def socket(self) -> BoundSocket:
        """The socket that it listens on."""

    @property
    def listing(self) -> Listing:
        """Its entry in the book of listeners."""


class Client(Protocol):
    """What a listener needs of a worker that holds it: the driver has it."""

    @property
    def id(self) -> int:
        """The worker's number."""

    @property
    def seat(self) -> Seat:
        """The worker's seat."""

    @property
    def user(self) -> int:
        """The uid that the worker runs as. It shares listeners with workers of the same user."""

    def on_serving(self, listener: Serving) -> None:
        """Note that `listener` serves the worker."""

    def on_finished(self) -> None:
        """Note that a listener of the worker has stopped `finishing` it: see `Listener.finish`."""

    def on_violation(self, error: ProtocolError) -> None:
        """Note that the worker broke the protocol of its belt."""


#: A descriptor, and the peer's address in the form of the wire.
Accepted: TypeAlias = tuple[int, Any]


class ReadBack(NamedTuple):
    """A message that the worker had not read: its numbers and connections. Some of these may be lost."""

    first: int
    size: int
    connections: list[Accepted]


class Subscriber(msgspec.Struct):
    """A worker that holds this listener. `batch` is 0 until it asks to be served.

    `shares`: it accepts by itself, in turn with others (policy `shared`).
    """

    client: Client
    belt: Belt
    ready: bool
    batch: int = 0
    room: int | None = None
    shares: bool = False
    #: Whether it is being removed. A `Close` among its last messages would otherwise remove it again.
    is_leaving: bool = False

    def accuse(self, loop: asyncio.AbstractEventLoop, error: ProtocolError) -> None:
        """Report that the worker broke the protocol, once the current call is finished."""
        loop.call_soon(self.client.on_violation, error)

    def next_message(self) -> tuple[Any, list[int]] | None:
        """The worker's next message, with the descriptors of a `GiveBack`; None if there is none. HOT.

        Raises ProtocolError, having closed all descriptors, for any other message and for a broken belt.
        """
        try:
            message = self.belt.receive()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            raise ProtocolError(f"its belt is broken: {exc}") from exc
        if message is None:  # the primary has a duplicate of its end: only a shutdown(2) ends it
            raise ProtocolError("it has shut down its belt")
        data, fds, is_truncated = message
        try:
            message = wire.decode_upstream(data)
        except ProtocolError as exc:
            close_strange(fds)
            raise ProtocolError(f"on a belt: {exc}") from exc
        expected = 1 if type(message) is wire.GiveBack else 0
        if len(fds) != expected and not (is_truncated and expected and not fds):
            close_strange(fds)
            raise ProtocolError(f"{type(message).__name__} came with {len(fds)} descriptors")
        return message, fds

    def read_back(self) -> ReadBack | None:
        """Take the oldest message that the worker has not read from the belt; None if there is none.

        Each message goes to exactly one reader. The worker holds a duplicate of the primary's end, and may
        have written the message itself. Raises ProtocolError, having closed all descriptors, if it is not a
        `Handover`.
        """
        try:
            message = self.belt.read_back()
        except OSError:
            return None
        if message is None:
            return None
        data, fds, is_truncated = message
        try:
            handover = wire.decode_handover(data)
            peers = handover.peers
            if len(fds) != len(peers) and not (is_truncated and len(fds) < len(peers)):
                raise ProtocolError(f"{len(peers)} connections with {len(fds)} descriptors")
            for peer in peers:
                wire.check_peer(peer)
        except (ProtocolError, ValueError) as exc:
            close_strange(fds)
            raise ProtocolError(str(exc)) from exc
        if is_truncated:
            log.error("out of descriptors: %d connections lost", len(peers) - len(fds))
        return ReadBack(handover.first, max(len(peers), 1), list(zip(fds, peers, strict=False)))
