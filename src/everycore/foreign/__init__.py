"""What everycore uses of other libraries that they do not promise to keep.

One module a library. Each module names what it touches once, probes it (the signature, and the behaviour on
a socket pair), and offers functions that hide the names from the rest of everycore. Where a probe fails, the
caller takes the public way: slower, or less exact in a count, but right. The page
`docs/explanation/foreign-internals.md` lists every name, what it is for, and what happens without it.

`EVERYCORE_WITHOUT`, a list of probes separated by commas or spaces, makes these probes fail: "asyncio" stands
for all of asyncio's, "all" for every probe. The tests use it to show that the public ways work; an operator
uses it when a new version of a library behaves unlike its probe.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from everycore.held_signals import held

T = TypeVar("T")
#: A probe of one part: an event loop that runs nothing else, and the two ends of a socket pair.
Probe = Callable[[Any, socket.socket, socket.socket], bool]

VARIABLE: Final = "EVERYCORE_WITHOUT"


def is_allowed(probe: str) -> bool:
    """Whether the probe `library.part` may be tried: `EVERYCORE_WITHOUT` does not name it."""
    named = set(os.environ.get(VARIABLE, "").replace(",", " ").split())
    return not named & {probe, probe.partition(".")[0], "all"}


def outside_any_loop(probe: Callable[[], T], otherwise: T) -> T:
    """Call `probe`, which runs an event loop of its own, where no event loop runs.

    That is this thread, or, where a loop runs in it, a thread made for the purpose. `otherwise` is returned
    where the system has no thread for us.
    """
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # Raised in a loop's constructor, what a signal's handler raises leaves half a loop behind.
        with held(signal.SIGINT, signal.SIGTERM):
            return probe()
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(probe()), name="everycore-probe")
    try:
        thread.start()
    except RuntimeError:  # RLIMIT_NPROC, pids.max, or memory
        return otherwise
    thread.join()
    return found[0]


def probe_parts(library: str, new_loop: Callable[[], Any], probes: Mapping[str, Probe]) -> dict[str, bool]:
    """Which parts of `library` are as their probes know them. What may not be tried is not."""
    allowed = {part: probe for part, probe in probes.items() if is_allowed(f"{library}.{part}")}
    found = try_probes(new_loop, allowed) if allowed else frozenset()
    return {part: part in found for part in probes}


def try_probes(new_loop: Callable[[], Any], probes: Mapping[str, Probe]) -> frozenset[str]:
    """The names of the probes that succeed. A probe that raises has failed: that is what it looks for.

    Where none can be tried, none succeeds: the public ways need nothing.
    """
    return outside_any_loop(lambda: _try_all(new_loop, probes), frozenset())


def _try_all(new_loop: Callable[[], Any], probes: Mapping[str, Probe]) -> frozenset[str]:
    found = set()
    loop: Any = None  # making one is most of what a probe costs, so those that succeed share it
    try:
        for name, probe in probes.items():
            try:
                loop = loop or new_loop()
                near, far = socket.socketpair()
                with near, far:
                    near.setblocking(False)
                    if probe(loop, near, far):
                        found.add(name)
                        continue
            except Exception:
                pass
            _close(loop)
            loop = None
    finally:  # another thread may have been sent the signal, and this one has to run the handler
        _close(loop)
    return frozenset(found)


def _close(loop: Any) -> None:
    """Close `loop`. What a probe left undone ends first: collected later, it would use a closed loop."""
    import asyncio

    if loop is None:
        return
    try:
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left))
    finally:
        loop.close()
