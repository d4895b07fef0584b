"""The private parts of other libraries that everycore uses, and that these do not promise to keep.

There is one module a library. Each module names the parts once, probes them (the signature, and the behaviour
on a socket pair), and offers functions that hide the names from the rest of everycore. If a probe fails, the
caller takes the public way, which is slower, or counts less exactly, but is correct. The page
`docs/explanation/foreign-internals.md` lists every name, its purpose, and the effect of its absence.

`EVERYCORE_WITHOUT`, a list of probes separated by commas or spaces, makes these probes fail: "asyncio" stands
for all of asyncio's probes, "all" for every probe. The tests use it to show that the public ways work. An
operator uses it when a new version of a library passes its probe but behaves differently.
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
#: A probe of one part. It gets an event loop that runs nothing else, and the two ends of a socket pair.
Probe = Callable[[Any, socket.socket, socket.socket], bool]

VARIABLE: Final = "EVERYCORE_WITHOUT"


def is_allowed(probe: str) -> bool:
    """Whether the probe `library.part` may be tried, that is, `EVERYCORE_WITHOUT` does not name it."""
    named = set(os.environ.get(VARIABLE, "").replace(",", " ").split())
    return not named & {probe, probe.partition(".")[0], "all"}


def outside_any_loop(probe: Callable[[], T], otherwise: T) -> T:
    """Call `probe`, which runs an event loop of its own, in a thread where no event loop runs.

    That is the calling thread, or a new thread if a loop runs in the calling one. Returns `otherwise` if the
    system can't start a thread.
    """
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # If a signal handler raises within a loop's constructor, half a loop is left behind.
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
    """Which parts of `library` pass their probes. A probe that may not be tried counts as failed."""
    allowed = {part: probe for part, probe in probes.items() if is_allowed(f"{library}.{part}")}
    found = try_probes(new_loop, allowed) if allowed else frozenset()
    return {part: part in found for part in probes}


def try_probes(new_loop: Callable[[], Any], probes: Mapping[str, Probe]) -> frozenset[str]:
    """The names of the probes that succeed. A probe that raises has failed.

    If no probe can be tried, none succeeds: the public ways need none.
    """
    return outside_any_loop(lambda: _try_all(new_loop, probes), frozenset())


def _try_all(new_loop: Callable[[], Any], probes: Mapping[str, Probe]) -> frozenset[str]:
    found = set()
    loop: Any = None  # making a loop is most of a probe's cost, so the probes that succeed share it
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
    finally:  # another thread may take the signal, and this one then runs the handler, which may raise
        _close(loop)
    return frozenset(found)


def _close(loop: Any) -> None:
    """Close `loop`, after a probe's leftover tasks: collected later, they would use a closed loop."""
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
