"""The end of a served application, step by step: from the order to leave to the last connection.

Every connected client gets its answer within the grace. Invariant: until the grace is over, no connection is
closed while its client may have a request under way. An `Exit` stands for the worker and for its primary.

1. Answers say `Connection: close` from now on. WebSockets and event streams end, spread over time.
2. An idle connection is handed on if another worker takes it over: its client notices nothing. Otherwise it
   stays until its next request, or until its keep-alive time-out. If a person is waiting for the exit
   (Ctrl-C), it is closed.
3. A connection that has not sent a byte yet has the keep-alive time-out to send its first one.
4. When the grace is over, the remaining connections are cut off, and logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from everycore.servers.asgi import Scope, Send, name_of
from everycore.servers.draining import Draining
from everycore.servers.underway import UnderWay

if TYPE_CHECKING:
    from everycore.foreign.uvicorn_internals import Inside

log = logging.getLogger("everycore.servers")

#: How often to look at the open connections, in seconds.
LOOK: Final = 0.02
#: How often to look if only the clock can change what to do, in seconds.
LOOK_AT_CLOCK: Final = 0.1
#: How many idle connections to hand on in one look: each is a descriptor in flight.
MOST_AT_ONCE: Final = 32
#: The part of the grace in which connections may be handed on, and are kept alive for that.
_HAND_ON_PART: Final = 0.5
#: How long a leaving worker waits to be told whether it may hand connections on, in seconds.
_FIRST_WORD: Final = 1.0
#: The part of the grace over which the ends of long exchanges are spread by default.
_SPREAD_PART: Final = 0.5
#: How long a new connection has for its first byte if a person is waiting for the exit, in seconds.
FIRST_BYTE: Final = 0.25
#: The part of the grace that is reserved for cutting off, and its upper limit in seconds.
_CUT_PART: Final = 0.1
_MOST_CUT: Final = 0.3
#: How many of the requests that were cut off are named in the log.
_MOST_NAMED: Final = 10


class Exit(Protocol):
    """How this process is asked to leave."""

    async def asked(self) -> None:
        """Wait until this process is asked to leave."""

    @property
    def is_alone(self) -> bool:
        """Whether this process has to close its listeners by itself."""

    @property
    def deadline(self) -> float:
        """When the grace is over, by the loop's clock. Known once `asked` has returned."""

    @property
    def spares_idle(self) -> bool:
        """Whether idle clients get time for one more request. Known once `asked` has returned."""

    @property
    def may_hand_on(self) -> bool:
        """Whether another worker takes idle connections over. This may change."""

    @property
    def is_undecided(self) -> bool:
        """Whether the primary has yet to say if another worker takes them over."""

    @property
    def open(self) -> int:
        """The number of open accepted connections; -1 if nothing counts them."""

    def hand_on(self, fd: int) -> None:
        """Give another worker this connection, and its descriptor."""

    def take_over(self, new: Callable[[], Any], began: Callable[[Any], None]) -> None:
        """Serve the connections that other workers hand on, from now on.

        `new` makes the protocol of each, and `began` is called with it.
        """


class Departing:
    """One engine's way out.

    inside: None if the engine's internal parts did not pass their probe, or if there is no access to them.
    under_way: the requests that the application works on, for an engine without `inside`.
    """

    def __init__(
        self,
        exit: Exit,
        draining: Draining,
        inside: Inside | None,
        *,
        keep_alive: float,
        spread: float | None,
        under_way: UnderWay | None = None,
    ) -> None:
        self._exit = exit
        self._draining = draining
        self._inside = inside
        self._under_way = UnderWay() if under_way is None else under_way
        self._keep_alive = keep_alive
        self._spread = spread
        self._loop = asyncio.get_running_loop()
        self._began = 0.0
        self._ends = 0.0
        self._looks = False
        #: Connections that this worker took over while it was leaving itself.
        self._stay: set[Any] = set()
        draining.keeps = self._keeps
        draining.answered = self._look_soon

    def on_serving(self) -> None:
        """The engine serves: take over the connections that other workers hand on."""
        if self._inside is not None:
            self._exit.take_over(self._inside.new, self._took_over)

    def _took_over(self, connection: Any) -> None:
        assert self._inside is not None
        self._inside.keep_alive(connection)
        if self._draining.is_on:  # no remaining worker could take it: it ends here
            self._stay.add(connection)

    async def run(self) -> None:
        """Leave. Returns when no connection is left, or shortly before the grace is over."""
        if self._exit.is_alone and self._inside is not None:
            self._inside.stop_accepting()
        now = self._loop.time()
        grace = max(self._exit.deadline - now, 0.0)
        self._began, self._ends = now, self._exit.deadline - min(grace * _CUT_PART, _MOST_CUT)
        spread = grace * _SPREAD_PART if self._spread is None else min(self._spread, grace)
        self._draining.begin(spread if self._exit.spares_idle else 0.0)
        next_look = 0.0
        # Wait first: the engine does not know the connections that were accepted just before the order came.
        await asyncio.sleep(LOOK)
        while self._is_busy() and (now := self._loop.time()) < self._ends:
            if self._may_hand_on() or now >= next_look:
                next_look = now + LOOK_AT_CLOCK
                self.look()
            await asyncio.sleep(LOOK)
        self._cut_off()

    def _is_busy(self) -> bool:
        if self._inside is None:
            return self._exit.open > 0 or len(self._under_way) > 0
        return bool(self._inside.connections() or self._inside.tasks())

    # --- idle connections ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Hand on or close the connections that are idle now, as far as that is due."""
        self._looks = False
        inside = self._inside
        if inside is None or not self._draining.is_on:
            return
        handed_on = 0
        for connection in filter(inside.is_idle, inside.connections()):
            if self._may_hand_on() and connection not in self._stay:
                if (fd := inside.take_away(connection)) is not None:
                    self._exit.hand_on(fd)
                    handed_on += 1
                if handed_on == MOST_AT_ONCE:
                    return
            elif self._is_overdue(connection) and not inside.has_unread(connection):
                inside.close(connection)

    def _is_overdue(self, connection: Any) -> bool:
        """Whether an idle connection has used up its time.

        The engine's own keep-alive time-out ends a connection that has had an answer.
        """
        assert self._inside is not None
        if not self._inside.is_unused(connection):
            return not self._exit.spares_idle
        seconds = self._keep_alive if self._exit.spares_idle else FIRST_BYTE
        return self._loop.time() > self._began + seconds

    def _look_soon(self) -> None:
        """Look soon: an answer is complete, and its connection may be idle in a moment."""
        if not self._looks and self._may_hand_on():
            self._looks = True
            self._loop.call_soon(self.look)

    def _may_hand_on(self) -> bool:
        if not self._exit.may_hand_on:
            return False
        return self._loop.time() < self._began + (self._ends - self._began) * _HAND_ON_PART

    def _keeps(self, send: Send) -> bool:
        """Whether the connection behind `send` lives on: it is handed on, or has sent another request."""
        inside = self._inside
        if inside is None:
            return False
        may = self._may_hand_on() or self._is_undecided()
        return (may and inside.is_plain(send)) or inside.has_more(send)

    def _is_undecided(self) -> bool:
        """Whether an answer must not end its connection, because the primary has not decided yet.

        If the primary says no, the next answer ends the connection. If a person is waiting for the exit there
        may be no next answer, so the result is False then.
        """
        waits = self._exit.is_undecided and self._exit.spares_idle
        return waits and self._loop.time() < self._began + _FIRST_WORD

    # --- the end of the grace -----------------------------------------------------------------------------

    def _cut_off(self) -> None:
        inside = self._inside
        if not self._is_busy():
            return
        if inside is None:
            tasks = self._under_way.tasks()
            self._tell(self._under_way.scopes(), tasks)
        else:
            busy = [connection for connection in inside.connections() if not inside.is_idle(connection)]
            tasks = inside.tasks()
            self._tell(list(map(inside.scope_of, busy)), tasks)
            for connection in inside.connections():
                inside.close(connection)
            self._loop.call_later(LOOK, self._abort)
        for task in tasks:
            task.cancel()

    def _abort(self) -> None:
        assert self._inside is not None
        for connection in self._inside.connections():
            self._inside.abort(connection)

    def _tell(self, scopes: Sequence[Scope | None], tasks: list[asyncio.Task[None]]) -> None:
        if not scopes and not tasks:
            return
        names = list(map(name_of, scopes[:_MOST_NAMED]))
        if len(scopes) > _MOST_NAMED:
            names.append(f"{len(scopes) - _MOST_NAMED} more")
        if not scopes:
            names = [f"{len(tasks)} tasks of requests that were answered"]
        log.error("the grace is over: cut off %s", ", ".join(names))
