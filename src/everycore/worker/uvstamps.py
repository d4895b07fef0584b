"""Notes on the board whether a worker's uvloop waits for events: what `StampedSelector` is to asyncio.

Job: two callbacks of libuv, before it waits and after, through ctypes: uvloop has no hook of its own, but
its wheels export libuv's symbols. 0.5 us a turn of the loop, so only under the policy `shared`, which needs
it. libuv calls the handlers of descriptors while it "waits": so a loop that is blocked in one looks idle to
the others. How long they took it tells all the same, since its clock stands still meanwhile. Invariant:
`close` comes before `loop.close()`, which takes every handle of libuv's for uvloop's own. Must not import the
primary's side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvloop import loop as _module

if TYPE_CHECKING:
    from everycore.system.board import WorkerBoard

#: `uv_handle_type` (uv.h), which libuv keeps for the sake of its ABI.
_CHECK: Final = 2
_PREPARE: Final = 9
#: Its clock has whole milliseconds: what it is behind on average, in seconds.
_HALF_TICK: Final = 0.0005
_uvloop: Final[Any] = _module
_Callback: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Stamps:
    """The two handles of one loop. Raises OSError or AttributeError if uvloop was built without symbols."""

    def __init__(self, loop: Any, board: WorkerBoard) -> None:
        self._uv = uv = ctypes.CDLL(_uvloop.__file__)
        uv.uv_handle_size.restype = ctypes.c_size_t
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        at = ctypes.c_void_p(get_pointer(_uvloop.libuv_get_loop_t_ptr(loop), None))
        note, now = board.idle, uv.uv_now  # not `loop.time`, which sets the clock first
        now.restype = ctypes.c_uint64
        self._before = self._make(_PREPARE, uv.uv_prepare_init, uv.uv_prepare_start, at, lambda _: note(True))
        self._after = self._make(
            _CHECK,
            uv.uv_check_init,
            uv.uv_check_start,
            at,
            lambda _: note(False, now(at) * 0.001 + _HALF_TICK),
        )

    def _make(
        self, kind: int, init: Any, start: Any, loop_at: ctypes.c_void_p, call: Callable[[Any], None]
    ) -> tuple[Any, Any]:
        handle = ctypes.create_string_buffer(self._uv.uv_handle_size(kind))
        callback = _Callback(call)
        init(loop_at, handle)
        start(handle, callback)
        self._uv.uv_unref(handle)  # it keeps no loop running
        return handle, callback

    def close(self) -> None:
        """Let libuv forget them in the loop's next turn: keep this object until then."""
        for handle, _ in (self._before, self._after):
            self._uv.uv_close(handle, None)
