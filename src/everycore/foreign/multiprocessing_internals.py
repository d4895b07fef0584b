"""The private parts of `multiprocessing` that everycore uses.

A worker that is forked from a mold inherits the mold's state: children that are not its own, finalizers of
the mold's objects, and the pipes to the mold's resource tracker and fork server, for which it can't wait.
`authkey` is public, and drawn anew in any case. Without the private parts a worker shares the mold's tracker,
as children of multiprocessing share their parent's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from everycore.foreign import is_allowed


def renew() -> None:
    """Forget children, finalizers, tracker and fork server, after a fork."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return
    process.current_process().authkey = os.urandom(32)
    if not is_allowed("multiprocessing.state"):
        return
    with contextlib.suppress(AttributeError):
        process._children.clear()
    util: Any = sys.modules.get("multiprocessing.util")
    with contextlib.suppress(AttributeError):
        if util is not None:
            util._finalizer_registry.clear()
            util._run_after_forkers()
    _forget("multiprocessing.resource_tracker", "_resource_tracker", ("_fd",), ("_pid",))
    _forget(
        "multiprocessing.forkserver",
        "_forkserver",
        ("_forkserver_alive_fd",),
        ("_forkserver_address", "_forkserver_pid"),
    )


def _forget(module: str, name: str, descriptors: tuple[str, ...], values: tuple[str, ...]) -> None:
    """Close this process's copies, and let the object believe that nothing was started."""
    one: Any = getattr(sys.modules.get(module), name, None)
    if one is None or not all(hasattr(one, field) for field in (*descriptors, *values)):
        return
    for field in descriptors:
        fd = getattr(one, field)
        if isinstance(fd, int):
            with contextlib.suppress(OSError):
                os.close(fd)
        setattr(one, field, None)
    for field in values:
        setattr(one, field, None)
