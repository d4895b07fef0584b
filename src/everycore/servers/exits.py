"""How a serving process is asked to leave: by its cluster, or, without one, by a signal.

These are the two kinds of `departing.Exit`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from everycore.aio import signals
from everycore.aio.waiting import settle
from everycore.worker.connections.handons import connect
from everycore.worker.session import Session


class WorkerExit:
    """The exit of a worker, which its cluster asks to leave."""

    is_alone = False

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tasks: set[asyncio.Task[None]] = set()

    async def asked(self) -> None:
        """As `Exit.asked`."""
        await self._session.asked_to_leave()

    @property
    def deadline(self) -> float:
        """As `Exit.deadline`."""
        return self._session.departure.deadline

    @property
    def spares_idle(self) -> bool:
        """As `Exit.spares_idle`."""
        return self._session.departure.spares_idle

    @property
    def may_hand_on(self) -> bool:
        """As `Exit.may_hand_on`."""
        return self._session.handons.may

    @property
    def is_undecided(self) -> bool:
        """As `Exit.is_undecided`."""
        return self._session.handons.is_undecided

    @property
    def open(self) -> int:
        """As `Exit.open`."""
        return self._session.connections.open

    def hand_on(self, fd: int) -> None:
        """As `Exit.hand_on`."""
        self._session.handons.hand_on(fd)

    def take_over(self, new: Callable[[], Any], began: Callable[[Any], None]) -> None:
        """As `Exit.take_over`."""
        loop = asyncio.get_running_loop()

        async def serve(sock: socket.socket) -> None:
            protocol = new()
            if await connect(loop, lambda: protocol, sock):
                began(protocol)

        def take(sock: socket.socket) -> None:
            task = loop.create_task(serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._session.handons.begin(take)


class LoneExit:
    """The exit of a process without a cluster: SIGINT or SIGTERM asks. `grace` is in seconds."""

    is_alone = True
    may_hand_on = is_undecided = False
    #: Connections are not counted.
    open = -1

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self.deadline = 0.0
        self.spares_idle = True

    async def asked(self) -> None:
        """As `Exit.asked`."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[signal.Signals] = loop.create_future()

        signals.install(
            loop, {number: partial(settle, came, number) for number in (signal.SIGINT, signal.SIGTERM)}
        )
        self.spares_idle = await came is not signal.SIGINT
        self.deadline = loop.time() + self._grace

    def hand_on(self, fd: int) -> None:
        """Raise NotImplementedError: there is no other worker."""
        raise NotImplementedError

    def take_over(self, new: Callable[[], Any], began: Callable[[Any], None]) -> None:
        """Do nothing: no other worker hands connections on."""
