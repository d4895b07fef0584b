"""The end of a served application, step by step: from the order to leave to the last connection.

Let every client that is connected have its answer, within the grace. Invariant: nobody's connection is closed
while a request of his may be under way, but by the end of the grace. An `Exit` stands for the worker and
for its primary.

1. Answers say `Connection: close` from now on; WebSockets and event streams end, spread over time.
2. An idle connection is handed on, where another worker takes it over: its client notices nothing. Else it
   stays until its next request, or until its keep-alive time-out. Where a human waits, it is closed.
3. A connection that has not sent a byte yet has the keep-alive time for its first one.
4. When the grace is over what is left is cut off, and logged.
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

#: How often to look at what is open, in seconds.
LOOK: Final = 0.02
#: The same, where nothing but time changes what is to be done.
LOOK_AT_CLOCK: Final = 0.1
#: Idle connections that are handed on in one look: each is a descriptor in somebody's hands.
MOST_AT_ONCE: Final = 32
#: The part of the grace for which a connection that could be handed on is kept alive for that.
_HAND_ON_PART: Final = 0.5
#: So long a worker that leaves waits for the primary's word whether it may hand on, in seconds.
_FIRST_WORD: Final = 1.0
#: The part of the grace over which ends are spread, unless told otherwise.
_SPREAD_PART: Final = 0.5
#: Where a human waits, who has just connected has so long for the first byte, in seconds.
FIRST_BYTE: Final = 0.25
#: So much of the grace, and no more than so many seconds, is for cutting off.
_CUT_PART: Final = 0.1
_MOST_CUT: Final = 0.3
#: So many requests that were cut off are named.
_MOST_NAMED: Final = 10


class Exit(Protocol):
    """How this process is asked to leave."""

    async def asked(self) -> None:
        """Wait until it is."""

    @property
    def is_alone(self) -> bool:
        """Whether nobody else closes the listeners of this process."""

    @property
    def deadline(self) -> float:
        """When the grace is over, by the loop's clock. Known once asked."""

    @property
    def spares_idle(self) -> bool:
        """Whether idle clients have time to ask once more. Known once asked."""

    @property
    def may_hand_on(self) -> bool:
        """Whether another worker takes idle connections over. May change."""

    @property
    def is_undecided(self) -> bool:
        """Whether it is still to be told if another worker does."""

    @property
    def open(self) -> int:
        """Accepted connections that are open; -1 where nobody counts them."""

    def hand_on(self, fd: int) -> None:
        """Let another worker have this connection, and its descriptor."""

    def take_over(self, new: Callable[[], Any], began: Callable[[Any], None]) -> None:
        """Serve what other workers hand on, from now on: by a protocol from `new`, and `began` is told it."""


class Departing:
    """One engine's way out.

    inside: None where the engine's inner parts are not as we know them, or not ours to use.
    under_way: what the application works on, where there is no inside that shows it.
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
        #: Connections that this worker took over while it leaves itself.
        self._stay: set[Any] = set()
        draining.keeps = self._keeps
        draining.answered = self._look_soon

    def on_serving(self) -> None:
        """The engine serves: this worker can take over what others hand on."""
        if self._inside is not None:
            self._exit.take_over(self._inside.new, self._took_over)

    def _took_over(self, connection: Any) -> None:
        assert self._inside is not None
        self._inside.keep_alive(connection)
        if self._draining.is_on:  # nobody who stays could take it: it ends here
            self._stay.add(connection)

    async def run(self) -> None:
        """Leave: return when nothing is left, or when the grace is all but over."""
        if self._exit.is_alone and self._inside is not None:
            self._inside.stop_accepting()
        now = self._loop.time()
        grace = max(self._exit.deadline - now, 0.0)
        self._began, self._ends = now, self._exit.deadline - min(grace * _CUT_PART, _MOST_CUT)
        spread = grace * _SPREAD_PART if self._spread is None else min(self._spread, grace)
        self._draining.begin(spread if self._exit.spares_idle else 0.0)
        next_look = 0.0
        # First: who was accepted just before the order came is no connection of the engine's yet.
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
        """Do what can be done about connections that are idle now."""
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
        """Whether an idle connection has had its time; where a request was answered, the engine keeps it."""
        assert self._inside is not None
        if not self._inside.is_unused(connection):
            return not self._exit.spares_idle
        seconds = self._keep_alive if self._exit.spares_idle else FIRST_BYTE
        return self._loop.time() > self._began + seconds

    def _look_soon(self) -> None:
        """An answer is complete: its connection may be idle in a moment."""
        if not self._looks and self._may_hand_on():
            self._looks = True
            self._loop.call_soon(self.look)

    def _may_hand_on(self) -> bool:
        if not self._exit.may_hand_on:
            return False
        return self._loop.time() < self._began + (self._ends - self._began) * _HAND_ON_PART

    def _keeps(self, send: Send) -> bool:
        """Whether the connection behind `send` lives on: it goes to another worker, or asks for more."""
        inside = self._inside
        if inside is None:
            return False
        may = self._may_hand_on() or self._is_undecided()
        return (may and inside.is_plain(send)) or inside.has_more(send)

    def _is_undecided(self) -> bool:
        """An answer that crosses the primary's word is not to end its connection.

        If the word is no, the next answer does: so not where a human waits, and there may be no next one.
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
