"""Idle connections on their way from a worker that leaves to one that stays.

This carries out what `core.handons` decides. Invariant: a descriptor that comes here is passed on or closed
in the same call. Another worker gets only connections of a listener that it holds.

Both policies hand on over the channels: it is rare, and does not belong in the accounts of a belt.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from everycore.core import wire
from everycore.core.handons import HandOnBook
from everycore.errors import ProtocolError
from everycore.primary.listeners.switchboard import Switchboard
from everycore.system.clients import client_of
from everycore.system.strange import close_strange

if TYPE_CHECKING:
    from everycore.core.sticky import Seat

log = logging.getLogger("everycore.primary")


class HandOnMember(Protocol):
    """What the exchange needs of a worker: its driver has it."""

    @property
    def id(self) -> int:
        """The worker's number."""

    @property
    def seat(self) -> Seat:
        """The worker's seat."""

    @property
    def user(self) -> int:
        """The uid that it runs as."""

    def tell(self, message: wire.MayHandOn | wire.TakeOver, fds: Sequence[int] = ()) -> None:
        """Send a message on its channel, which owns the descriptors from now on."""


class Exchange:
    """The workers of one cluster that hand on connections or take them over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, switchboard: Switchboard) -> None:
        self._loop = loop
        self._switchboard = switchboard
        self._book = HandOnBook()
        self._members: dict[int, HandOnMember] = {}
        self._is_telling = False
        #: Behind a proxy, the worker that takes a connection over would see the proxy as its client.
        self._book.may_never = bool(switchboard.settings.trust_proxy_protocol)

    def can(self, member: HandOnMember, most: int) -> None:
        """As `HandOnBook.can`."""
        self._members[member.id] = member
        self._update(self._book.can, member.id, most)

    def ready(self, member: HandOnMember) -> None:
        """As `HandOnBook.ready`."""
        self._update(self._book.ready, member.id)

    def leaves(self, member: HandOnMember) -> None:
        """As `HandOnBook.leaves`."""
        self._update(self._book.leaves, member.id)

    def gone(self, member: HandOnMember) -> None:
        """As `HandOnBook.gone`."""
        self._members.pop(member.id, None)
        self._update(self._book.gone, member.id)

    def _update(self, what: Callable[..., None], *args: int) -> None:
        what(*args)
        # In a later turn: if all workers are asked to leave one after the other, none of them stays.
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        for worker, may in self._book.news():
            self._members[worker].tell(wire.MayHandOn(may))

    def hand_on(self, member: HandOnMember, fds: Sequence[int]) -> None:
        """Let `member` hand a connection on. Raises ProtocolError, having closed it, for anything else."""
        try:
            if len(fds) != 1:
                raise ProtocolError(f"HandOn came with {len(fds)} descriptors")
            self._book.hands_on(member.id)
            found = self._look_at(fds[0], member.user)
        except BaseException:
            close_strange(fds)
            raise
        self._tell()  # a worker chosen because no other is left must know that it can't hand on
        taker = None
        if found is not None:
            holders, client = found
            pick = (
                partial(self._pick, member.seat.slot, client)
                if self._switchboard.settings.policy == "sticky"
                else None
            )
            taker = self._book.choose(member.id, holders, self._count, pick)
        if taker is None:
            if found is not None:
                log.debug(
                    "a connection of worker %d was closed: no worker is left to take it over", member.id
                )
            close_strange(fds)
            return
        self._members[taker].tell(wire.TakeOver(), fds)

    def _count(self, worker: int) -> int:
        return self._members[worker].seat.open

    def _pick(self, slot: int, client: bytes | None, workers: Sequence[int]) -> int | None:
        """The slot that gets the client's next connection too: the giver's, or that of its address."""
        there = {self._members[worker].seat.slot: worker for worker in sorted(workers)}
        if slot in there or client is None:
            return there.get(slot)
        from everycore.core.sticky import best  # late: of one policy alone

        return there[best(client, there)]

    def _look_at(self, fd: int, user: int) -> tuple[list[int], bytes | None] | None:
        """The workers of `user` that hold the connection's listener, and the client; None if it has ended.

        No worker holds the listener of a connection that came to another address: it can only go back. Raises
        ProtocolError for anything but a connection.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as exc:
            raise ProtocolError(f"it handed on a descriptor that is not a socket: {exc}") from exc
        try:
            if sock.type != socket.SOCK_STREAM or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ProtocolError("it handed on a socket that is not a connection")
            here = sock.getsockname()
            client = client_of(sock.getpeername())
        except OSError as exc:
            if exc.errno in (errno.ENOTCONN, errno.EINVAL):
                return None
            raise ProtocolError(f"it handed on a socket that is not a connection: {exc}") from exc
        finally:
            family = int(sock.family)
            sock.detach()
        holders = self._switchboard.holders_of(user, lambda listener: _accepts(listener, family, here))
        return holders, client


def _accepts(listener: socket.socket, family: int, here: Any) -> bool:
    """Whether connections of `listener` have `here` as their local address."""
    if listener.fileno() < 0 or listener.type != socket.SOCK_STREAM or listener.family != family:
        return False
    bound = listener.getsockname()
    if not isinstance(bound, tuple):
        return bool(bound == here)
    return bool(bound[1] == here[1] and bound[0] in ("0.0.0.0", "::", here[0]))
