"""What everycore uses of the private parts of `multiprocessing`.

A worker that is forked from a mold has what the mold had: children that are not its own, finalizers of
objects that are the mold's, and the pipe to the mold's resource tracker and fork server, which it cannot wait
for. `authkey` is public, and drawn anew in any case. Without the private parts a worker shares the mold's
tracker, as children of multiprocessing share their parent's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from everycore.foreign import is_allowed


def renew() -> None:
    """After a fork: children, finalizers, tracker and fork server are none."""
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
    """Close our copies, and let the object think that nothing was started."""
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
