"""`ClusterSocket`: the socket that `listen` returns in a worker. To any server it is a listening socket.

It looks like the real listener, but its descriptor is the worker's end of a belt. Invariant: nothing done to
it reaches other workers. `listen` and `shutdown` leave the shared listener alone, and the blocking mode is
that of the belt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import msgspec

from everycore.core import wire
from everycore.foreign.socket_internals import accept, keep_native_accept
from everycore.kernel import os_error
from everycore.system import belt, packets, sockets
from everycore.system.descriptors import close_now, duplicate, empty_out

#: A wait that stands for "no limit", in seconds; poll(2) can't express much more.
VERY_LONG = 2_000_000.0
#: How often a program that accepts without a loop checks whether it may accept again, in seconds.
_LOOK = 0.02
#: The longest wait in one call, in seconds. A signal that comes just before the system call does not
#: interrupt it: Python notices the signal after the call. SIGTERM asks such a program to leave, so that must
#: be soon.
_LONGEST_WAIT = 0.5
# The originals, from before gevent replaced them: gevent accepts without waiting, and waits by itself.
_poll, _now, _sleep = select.poll, time.monotonic, time.sleep
_PROTOCOL_OPTION = getattr(socket, "SO_PROTOCOL", 38)
_DOMAIN_OPTION = getattr(socket, "SO_DOMAIN", 39)


class ListenerGrant(msgspec.Struct):
    """A listener that this worker holds. Duplicates of its socket share the grant; the last one ends it."""

    listener: int
    address: Any
    family: int
    kind: int
    proto: int
    #: Counts a connection that `accept()` returns, by its number.
    watch: Callable[[int], None]
    start: Callable[[int, int], None]
    started: bool
    users: int = 0


def _ready(sockets: Iterable[socket.socket], seconds: float) -> list[tuple[int, int]]:
    """The readable ones, within `seconds` (poll(2): any descriptor number, and no epoll instance to keep)."""
    poll = _poll()
    for sock in sockets:
        poll.register(sock, select.POLLIN)
    return poll.poll(seconds * 1000)


class ClusterSocket(socket.socket):
    """A listening socket: `accept()` takes the next connection that the primary gave this worker."""

    __slots__ = ("_twin", "_when_closed", "grant")

    def __init__(self, grant: ListenerGrant, belt_fd: int, duplicate_fd: int) -> None:
        super().__init__(grant.family, grant.kind, grant.proto, fileno=belt_fd)
        #: The grant that this socket stands for; None once it is closed.
        self.grant: ListenerGrant | None = grant
        self._when_closed: Callable[[], None] | None = None
        grant.users += 1
        # The primary's end of the belt. It is never used, but keeps the belt from reaching end-of-file.
        self._twin = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=duplicate_fd)

    @staticmethod
    def granted(
        message: wire.Granted,
        fds: list[int] | tuple[int, ...],
        watch: Callable[[int], None],
        start: Callable[[int, int], None],
        *,
        started: bool,
    ) -> ClusterSocket:
        """Make a socket from the primary's answer."""
        address = sockets.off_the_wire(message.address)
        grant = ListenerGrant(
            message.listener,
            address,
            message.family,
            message.kind,
            message.proto,
            watch,
            start,
            started,
        )
        if len(fds) > 2:
            return SharedSocket(grant, fds[0], fds[1], fds[2], fds[3] if len(fds) > 3 else -1)
        return ClusterSocket(grant, fds[0], fds[1])

    def __repr__(self) -> str:
        if self.grant is None:
            return "<everycore.ClusterSocket [closed]>"
        return f"<everycore.ClusterSocket {self.grant.address!r} fd={self.fileno()}>"

    # --- a listening socket's manners ---------------------------------------------------------------------

    def getsockname(self) -> Any:
        """The real listener's address."""
        if self.grant is None:
            raise os_error(errno.EBADF)
        return self.grant.address

    def getpeername(self) -> Any:
        """Raise OSError (ENOTCONN), as for any listener. The belt itself does have a peer."""
        raise os_error(errno.ENOTCONN)

    def listen(self, backlog: int = 128, /) -> None:
        """Do nothing if the primary listens already.

        A listener that is only bound begins to listen. Raises OSError if it can't.
        """
        grant = self.grant
        if grant is None:
            raise os_error(errno.EBADF)
        if not grant.started:
            grant.start(grant.listener, backlog)
            grant.started = True

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call `callback` just before this socket is closed, while its descriptors can still be used."""
        self._when_closed = callback

    def tell_primary(self, message: wire.Upstream, fds: Sequence[int] = ()) -> bool:
        """Send the primary a message about this listener. Returns False if the belt does not take it."""
        return belt.tell_primary(self._voice(), wire.encode(message), fds)

    def tell_primary_reliably(
        self, message: wire.Upstream, fds: Sequence[int] = (), *, patience: float = belt.PATIENCE
    ) -> bool:
        """As `tell_primary`, but try again for `patience` seconds."""
        return belt.tell_primary_reliably(self._voice(), wire.encode(message), fds, patience=patience)

    def _voice(self) -> socket.socket:
        """The worker's end of the belt."""
        return self

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection, a plain `socket.socket`, and the peer's address.

        This waits, or not, as a listening socket would. It may raise BlockingIOError although the socket was
        readable: the primary has given the connection to another worker.
        """
        grant = self.grant
        if grant is None:
            raise os_error(errno.EBADF)
        while True:
            # Raise if no descriptor is free: the primary gives what stays on the belt to another worker.
            os.close(os.dup(self.fileno()))
            received = self._receive()
            if received is None:
                raise OSError(errno.EINVAL, "the listener is gone")
            data, fds, _ = received
            handover = wire.decode_handover(data)
            last = handover.first + max(len(handover.peers), 1) - 1
            self.tell_primary_reliably(wire.Acked(last))
            if fds:
                break
            if handover.peers:  # the kernel dropped the descriptor: this process has no free one
                raise os_error(errno.EMFILE)
            if self.gettimeout() == 0.0:  # a probe woke this worker, and no connection came with it
                raise os_error(errno.EAGAIN)
        conn = socket.socket(grant.family, grant.kind, grant.proto, fileno=fds[0])
        if socket.getdefaulttimeout() is None:
            conn.setblocking(True)
        grant.watch(conn.fileno())
        return conn, sockets.off_the_wire(handover.peers[0])

    def _receive(self) -> tuple[bytes, list[int], bool] | None:
        """Return the next message on the belt, waiting as this socket's mode says."""
        if self.gettimeout() is not None:
            return packets.receive(self, flags=socket.MSG_CMSG_CLOEXEC)
        while True:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return packets.receive(self)
            # Outside the `with`, an exception that ends the wait (Ctrl-C) is not chained to that error.
            _ready((self,), _LONGEST_WAIT)

    def shutdown(self, how: int, /) -> None:
        """Do nothing: other workers go on listening."""

    def getsockopt(self, level: int, option: int, *args: Any) -> Any:
        """Return a listener's value for the options that programs ask for; other options are the belt's."""
        grant = self.grant
        if level == socket.SOL_SOCKET and grant is not None and not args:
            answers = {
                socket.SO_ACCEPTCONN: int(grant.started),
                socket.SO_TYPE: grant.kind,
                _DOMAIN_OPTION: grant.family,
                _PROTOCOL_OPTION: grant.proto,
            }
            if option in answers:
                return answers[option]
        return super().getsockopt(level, option, *args)

    def setsockopt(self, level: int, option: int, *args: Any) -> None:
        """Ignore transport options, which a belt does not have. Set them on accepted connections instead."""
        if level == socket.SOL_SOCKET:
            super().setsockopt(level, option, *args)

    # --- the end ------------------------------------------------------------------------------------------

    def dup(self) -> Self:
        """Return another socket for the same listener."""
        if self.grant is None:
            raise os_error(errno.EBADF)
        copy = type(self)(self.grant, duplicate(self.fileno()), duplicate(self._twin.fileno()))
        copy.settimeout(self.gettimeout())
        return copy

    def detach(self) -> int:
        """As `socket.detach`, but give the listener up: nothing else can accept from this descriptor."""
        self._close_listener()
        return super().detach()

    def close(self) -> None:
        """As `socket.close`, but give the listener up. It closes at once, since no file is made from it."""
        self._close_listener()
        super().close()

    def abandon(self) -> None:
        """Close this process's copies in a forked child, without telling the primary."""
        self.grant = self._when_closed = None
        self._close_parts()
        close_now(self)

    def _close_parts(self) -> None:
        """Close the descriptors that go with this socket."""
        self._twin.close()

    def _close_listener(self) -> None:
        when_closed, self._when_closed = self._when_closed, None
        if when_closed is not None:
            when_closed()
        grant, self.grant = self.grant, None
        if grant is None:
            return
        grant.users -= 1
        if grant.users == 0:
            # Without this message, connections would go on coming to a belt that nothing reads.
            self.tell_primary_reliably(wire.Close())
        self._close_parts()

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter shutdown the modules are empty, and the primary sees the process end.
        if _is_finalizing():
            for part in ("_twin", "_belt"):  # the kernel closes them; detached, they cause no ResourceWarning
                if sock := getattr(self, part, None):
                    sock.detach()
            return
        if getattr(self, "grant", None) is not None:
            self._close_listener()
        finalize: Any = super()
        finalize.__del__()  # warn and close, as for any socket


class SharedSocket(ClusterSocket):
    """The listener itself, or a datagram socket, shared with the other workers (policy `shared`; UDP).

    The blocking mode is emulated by this object: the open file is shared, and stays non-blocking for every
    worker. `accept` waits for the listener and for the belt, on which a `Rest` lies while this worker is to
    take no connections.
    """

    __slots__ = ("_belt", "_timeout", "baton", "copies")

    def __init__(
        self, grant: ListenerGrant, belt_fd: int, twin_fd: int, shared_fd: int, baton_fd: int
    ) -> None:
        super().__init__(grant, shared_fd, twin_fd)
        self._belt = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=belt_fd)
        #: The eventfd of the baton, which says "look again"; -1 for a datagram socket.
        self.baton = baton_fd
        #: Descriptors of the listener that an event loop has, and closes.
        self.copies: list[int] = []
        self._timeout: float | None = None
        self.settimeout(socket.getdefaulttimeout())

    def _voice(self) -> socket.socket:
        return self._belt

    def settimeout(self, value: float | None, /) -> None:
        """As `socket.settimeout`. A listener never waits in the kernel; a datagram socket may, very long."""
        super().settimeout(VERY_LONG if value is None else value)
        if self.grant is not None and self.grant.kind == socket.SOCK_STREAM:
            super().settimeout(0.0)
        self._timeout = value

    def setblocking(self, flag: bool, /) -> None:
        """As `socket.setblocking`."""
        self.settimeout(None if flag else 0.0)

    def gettimeout(self) -> float | None:
        """As `socket.gettimeout`."""
        return self._timeout

    def getblocking(self) -> bool:
        """As `socket.getblocking`."""
        return self.gettimeout() != 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.accept`: take the next connection, in competition with the other workers.

        While this worker is not ready, or is leaving, it takes no connection and waits or times out.
        """
        return self.take(self.gettimeout())

    def take(self, timeout: float | None) -> tuple[socket.socket, Any]:
        """As `accept`, but wait for at most `timeout` seconds whatever this socket's own mode is."""
        deadline = None if timeout is None else _now() + timeout
        while True:
            grant = self.grant
            if grant is None:
                raise os_error(errno.EBADF)
            rests = self.rests()
            accepted: tuple[int, Any] | None = None
            if not rests:
                try:
                    accepted = accept(self)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as exc:
                    if exc.errno != errno.EINVAL or not grant.started:
                        raise
                    rests = True  # the primary refuses new connections, because all workers are to leave
            if accepted is not None:
                fd, peer = accepted
                conn = socket.socket(grant.family, grant.kind, grant.proto, fileno=fd)
                grant.watch(conn.fileno())
                return conn, peer
            left = VERY_LONG if deadline is None else deadline - _now()
            if left <= 0:
                if timeout == 0:
                    raise os_error(errno.EAGAIN)
                raise TimeoutError("timed out")
            if rests:  # nothing announces that the primary has taken the `Rest` away
                _sleep(min(left, _LOOK))
            else:
                self._wait(left)

    def belt_fileno(self) -> int:
        """The descriptor on which the primary's messages to this worker arrive; -1 once it is closed."""
        return self._belt.fileno()

    def ends(self) -> tuple[int, int]:
        """Both ends of the belt: the worker's and the primary's."""
        return self._belt.fileno(), self._twin.fileno()

    def rests(self) -> bool:
        """Whether this worker is to take no connections now."""
        return bool(_ready((self._belt,), 0))

    def _wait(self, seconds: float) -> None:
        """Wait until a client connects, or until this worker is to rest."""
        try:
            _ready((self, self._belt), min(seconds, _LONGEST_WAIT))
        except ValueError:  # closed by another thread
            raise os_error(errno.EBADF) from None

    def setsockopt(self, level: int, option: int, *args: Any) -> None:
        """As `socket.setsockopt`. The socket is the real one, so the option applies to every worker."""
        socket.socket.setsockopt(self, level, option, *args)

    def dup(self) -> Self:
        """Return another socket for the same listener."""
        if self.grant is None:
            raise os_error(errno.EBADF)
        belt_fd, twin_fd, shared_fd = (duplicate(sock.fileno()) for sock in (self._belt, self._twin, self))
        baton_fd = duplicate(self.baton) if self.baton >= 0 else -1
        copy = type(self)(self.grant, belt_fd, twin_fd, shared_fd, baton_fd)
        copy.settimeout(self.gettimeout())
        return copy

    def abandon(self) -> None:
        """As `ClusterSocket.abandon`. The loop's copies keep their numbers: the loop may close them."""
        empty_out(self.copies, self.fileno())
        super().abandon()

    def _close_parts(self) -> None:
        super()._close_parts()
        self._belt.close()
        if self.baton >= 0:
            os.close(self.baton)
            self.baton = -1


keep_native_accept(ClusterSocket)  # `everycore run` replaces `socket.socket`'s own
