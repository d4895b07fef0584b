"""The private parts of uvloop that everycore uses. This module is imported only where uvloop is.

There are four parts, each with a probe:

* *connect*: the coroutine `loop.connect_accepted_socket(factory, sock)` has made the transport when it first
  waits. It asks `sock` for `family`, `type` and `fileno()`, and calls `sock.close()` once the transport has
  closed the descriptor itself. So `worker.loops.beltserver` advances it by hand, and gives it no socket
  object: 7 us a connection instead of 18 for a task (measured). Without it, there is a task and a socket.
* *backend*: `_get_backend_id`, the epoll in which libuv waits. Without it, each connection wakes all workers
  under the policy `shared`.
* *stamps*: libuv's symbols, which uvloop's wheels export, by ctypes. Without them the other workers can't see
  on the board whether this worker waits for events, and assume that it does.
* *accept*: libuv accepts one connection a wake-up, asks the factory for its protocol, and counts it in the
  field `_active_count` of the `Server`, in C, until its descriptor is closed. The field is read in memory, at
  the place where the probe has seen it count. Without it, each connection is accepted in Python: 10 us more.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import ctypes
import errno
import functools
import gc
import itertools
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvloop
from uvloop import loop as _module

from everycore.foreign import probe_parts
from everycore.held_signals import DROPS_EXCEPTIONS

#: `uv_handle_type` (uv.h), which libuv keeps for the sake of its ABI.
_CHECK: Final = 2
_PREPARE: Final = 9
#: How far libuv's clock, which has millisecond resolution, is behind on average, in seconds.
_HALF_TICK: Final = 0.0005
#: No field of an extension type comes before this offset: `sizeof(PyObject)` at least.
_HEADER: Final = object.__basicsize__
_uvloop: Final[Any] = _module
#: uvloop's own methods. `everycore run` replaces them on the class.
_create_server: Final[Callable[..., Any]] = uvloop.Loop.create_server
_create_unix_server: Final[Callable[..., Any]] = uvloop.Loop.create_unix_server
_Callback: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Capabilities(msgspec.Struct, frozen=True):
    """Which private parts of this uvloop pass their probes."""

    connect: bool
    backend: bool
    stamps: bool


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this uvloop, probed once a process with a connection over a socket pair."""
    probes = {"connect": _probe_connect, "backend": _probe_backend, "stamps": _probe_stamps}
    return Capabilities(**probe_parts("uvloop", uvloop.Loop, probes))


def epoll_of(loop: Any) -> int | None:
    """The descriptor of the epoll in which a uvloop loop waits, or None if that can't be told."""
    return int(loop._get_backend_id()) if capabilities().backend else None


class Stamps:
    """Two libuv callbacks, before it waits for events and after: `note(True)` and `note(False, since)`.

    `since` is when libuv got its events, by time.monotonic(), in seconds. The callbacks cost 0.5 us a turn of
    the loop. libuv calls the handlers of descriptors while it "waits", so a loop that is blocked in a handler
    looks idle. `since` still shows how long the handlers took, because libuv's clock stands still meanwhile.

    Call `close` before `loop.close()`, which takes every libuv handle for one of uvloop's own.

    Raises: OSError or AttributeError if uvloop was built without symbols.
    """

    def __init__(self, loop: Any, note: Callable[..., None]) -> None:
        self._uv = uv = ctypes.CDLL(_uvloop.__file__)
        uv.uv_handle_size.restype = ctypes.c_size_t
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        at = ctypes.c_void_p(get_pointer(_uvloop.libuv_get_loop_t_ptr(loop), None))
        now = uv.uv_now  # `loop.time` would update the clock first
        now.restype = ctypes.c_uint64

        def before(_: object) -> None:
            note(True)

        def after(_: object) -> None:
            note(False, now(at) * 0.001 + _HALF_TICK)

        DROPS_EXCEPTIONS.update((before.__code__, after.__code__))
        self._before = self._make(_PREPARE, uv.uv_prepare_init, uv.uv_prepare_start, at, before)
        self._after = self._make(_CHECK, uv.uv_check_init, uv.uv_check_start, at, after)

    def pause(self) -> None:
        """Call nothing until `resume`. In a loop that is never idle the callbacks cost 2 to 4 us a turn."""
        self._uv.uv_prepare_stop(self._before[0])
        self._uv.uv_check_stop(self._after[0])

    def resume(self) -> None:
        """Call `note` again, after `pause`."""
        self._uv.uv_prepare_start(*self._before)
        self._uv.uv_check_start(*self._after)

    def _make(
        self, kind: int, init: Any, start: Any, loop_at: ctypes.c_void_p, call: Callable[[Any], None]
    ) -> tuple[Any, Any]:
        handle = ctypes.create_string_buffer(self._uv.uv_handle_size(kind))
        callback = _Callback(call)
        init(loop_at, handle)
        start(handle, callback)
        self._uv.uv_unref(handle)  # the handle must not keep the loop running
        return handle, callback

    def close(self) -> None:
        """Close both handles. libuv forgets them in the loop's next turn: keep this object until then."""
        for handle, _ in (self._before, self._after):
            self._uv.uv_close(handle, None)


def stamps_of(loop: Any, note: Callable[..., None]) -> Stamps | None:
    """Let `loop` call `note` as `Stamps` says. Returns None if its libuv is out of reach."""
    return Stamps(loop, note) if capabilities().stamps else None


class NativeServer:
    """A listener from which a uvloop loop accepts by itself, in C, one connection a wake-up.

    listener: the descriptor of a listening stream socket. libuv gets a copy, `fileno`, which it closes.
    factory: returns the protocol of a connection that was accepted. It must not raise: libuv would keep that
        connection, and accept no other.

    Raises: OSError.
    """

    __slots__ = ("_server", "counter", "fileno")

    def __init__(self, loop: Any, listener: int, family: int, factory: Callable[[], Any]) -> None:
        self._server, self.fileno = _serve(loop, listener, family, factory)
        #: Its `value` is the number of open connections. It is valid as long as this object exists.
        self.counter = ctypes.c_int.from_address(id(self._server) + _count_offset())

    def transports(self) -> list[Any]:
        """The transports of the open connections. The search visits every object of the program."""
        found = gc.get_referrers(self._server)
        return [one for one in found if hasattr(one, "abort") and hasattr(one, "get_protocol")]

    def close(self) -> None:
        """Stop accepting. Open connections go on, and are counted."""
        self._server.close()


def accepts_natively() -> bool:
    """Whether `NativeServer` can be used. Probed once per process, at the first call."""
    found = capabilities()
    return found.backend and found.stamps and _count_offset() > 0


@functools.cache
def _count_offset() -> int:
    """The offset in a `Server` of its count of connections, in bytes; 0 if it is unknown."""
    offsets: list[int] = []

    def probe(loop: Any, _near: socket.socket, _far: socket.socket) -> bool:
        offsets.extend(_find_count(loop))
        return len(offsets) == 1

    return offsets[0] if probe_parts("uvloop", uvloop.Loop, {"accept": probe})["accept"] else 0


def _serve(loop: Any, listener: int, family: int, factory: Callable[[], Any]) -> tuple[Any, int]:
    """Let `loop` serve on a copy of `listener`. Returns uvloop's server and the number of the copy.

    libuv calls listen(2) before it accepts. On a shared listener that would change every worker's backlog.
    So libuv listens on a socket of its own, and the copy takes that socket's place before it is polled.
    """
    with _unix_socket() as raw:
        raw.bind("")  # unix(7), autobind: a name that no client knows
        kind, create = (
            (socket.AF_UNIX, _create_unix_server)
            if family == socket.AF_UNIX
            else (socket.AF_INET, _create_server)
        )
        stand_in = socket.socket(kind, socket.SOCK_STREAM, 0, fileno=raw.detach())
    fd = stand_in.fileno()
    try:
        with contextlib.closing(create(loop, factory, sock=stand_in, backlog=1)) as coroutine:
            coroutine.send(None)
    except StopIteration as stop:
        server = stop.value
    except BaseException:
        stand_in.close()
        raise
    else:
        stand_in.close()
        raise OSError(errno.EAGAIN, "uvloop does not serve at once")
    try:
        os.dup2(listener, fd, inheritable=False)
    except OSError:
        server.close()
        raise
    return server, fd


def _unix_socket() -> contextlib.closing[_socket.socket]:
    """Make a socket that `everycore run` does not see."""
    return contextlib.closing(_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))


# --- the probe --------------------------------------------------------------------------------------------


class _ProbeConnection:
    """An object that stands for a socket, for uvloop."""

    type = socket.SOCK_STREAM.value

    def __init__(self, fd: int) -> None:
        self.family = int(socket.AF_UNIX)
        self.closed = 0
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self.closed += 1


class _ProbeProtocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.seen.append("made")

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.append(exc)
        asyncio.get_running_loop().stop()


def _probe_connect(loop: Any, near: socket.socket, far: socket.socket) -> bool:
    protocol = _ProbeProtocol()
    conn = _ProbeConnection(near.detach())
    with contextlib.closing(loop.connect_accepted_socket(lambda: protocol, conn)) as coroutine:
        waits = coroutine.send(None)
        far.send(b"x")
        far.shutdown(socket.SHUT_WR)
        loop.call_later(_PATIENCE, loop.stop)
        loop.run_forever()
        if not waits.done():
            return False
        try:
            coroutine.send(None)
        except StopIteration as stop:
            transport = stop.value[0]
        else:
            return False
    loop.run_until_complete(asyncio.sleep(0))
    return transport.is_closing() and protocol.seen == ["made", b"x", None] and conn.closed == 1


def _probe_backend(loop: Any, near: socket.socket, _far: socket.socket) -> bool:
    with select.epoll.fromfd(os.dup(loop._get_backend_id())) as epoll:
        epoll.register(near, select.EPOLLOUT | select.EPOLLEXCLUSIVE)
        epoll.unregister(near)
    return True


def _probe_stamps(loop: Any, _near: socket.socket, _far: socket.socket) -> bool:
    noted: list[tuple[Any, ...]] = []
    stamps = Stamps(loop, lambda *what: noted.append(what))
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    stamps.close()
    loop.run_until_complete(asyncio.sleep(0))  # libuv forgets the handles in this turn
    waited = [what for what in noted if what[0]]
    return bool(waited) and any(what[0] is False and abs(what[1] - loop.time()) < _PATIENCE for what in noted)


def _find_count(loop: Any) -> list[int]:
    """The offsets in a `Server` of a number that follows its open connections.

    Returns none if libuv accepts several connections in one turn: before 1.45 it accepts until none waits.
    """
    happened: list[bool] = []

    def factory() -> asyncio.Protocol:
        happened.append(True)
        return asyncio.Protocol()

    with contextlib.ExitStack() as stack:
        stamps = Stamps(loop, lambda waits, *_: happened.append(False) if waits else None)
        stack.callback(_turn, loop)
        stack.callback(stamps.close)
        listener = stack.enter_context(_unix_socket())
        listener.bind("")
        listener.listen(_PROBED)
        server, _ = _serve(loop, listener.fileno(), socket.AF_UNIX, factory)
        clients = []
        for _ in range(_PROBED):
            clients.append(stack.enter_context(_unix_socket()))
            clients[-1].connect(listener.getsockname())
        seen = [_numbers_in(server)]
        for open_then in (_PROBED, _PROBED - 1, 0):
            for client in clients[open_then:]:
                client.close()
            for _ in range(_TURNS):
                _turn(loop)
            seen.append(_numbers_in(server))
        server.close()
    if happened.count(True) != _PROBED or (True, True) in itertools.pairwise(happened):
        return []
    counts = (0, _PROBED, _PROBED - 1, 0)
    return [_HEADER + at * _INT for at, numbers in enumerate(zip(*seen, strict=True)) if numbers == counts]


def _turn(loop: Any) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def _numbers_in(thing: Any) -> list[int]:
    """The memory of an object after its header, as C integers."""
    size = (type(thing).__basicsize__ - _HEADER) // _INT
    return list((ctypes.c_int * size).from_address(id(thing) + _HEADER))


#: How many connections `_find_count` makes, and the most turns that they may take.
_PROBED: Final = 3
_TURNS: Final = 8
_INT: Final = ctypes.sizeof(ctypes.c_int)
#: The time limit of a probe, in seconds. A probe takes a thousandth of that.
_PATIENCE: Final = 5.0
