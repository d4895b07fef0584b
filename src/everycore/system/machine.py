"""What this machine offers: CPUs, memory, and whether it is Linux at all.

Affinity, cgroup quotas and limits become numbers here, each with the reason why it is not higher. Invariant:
this only reads, and a file that is missing or odd means "no limit from here", never an error. A container
without a quota, a kernel without cgroups and a restricted /proc are all ordinary.

Facts (cgroups(7), Documentation/admin-guide/cgroup-v2.rst):

* /proc/self/cgroup has a line `hierarchy:controllers:path` for each hierarchy; v2's is `0::path`.
* A limit binds the whole subtree, so the limit of every ancestor counts, not only that of the process's own
  group.
* v1 in a container without a cgroup namespace: the path is the host's, while the container's own group is
  mounted at the root. Trying every ancestor that exists covers this too.
* A path that leaves the cgroup namespace begins with `/..`: only the root of such a group is visible.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from os.path import join
from typing import Final, TypeAlias

import msgspec

from everycore.errors import ConfigurationError, UnsupportedPlatform

#: A path as the standard library takes one. (`pathlib` would be imported for this module alone.)
Path: TypeAlias = str | os.PathLike[str]

MEMBERSHIP: Final = "/proc/self/cgroup"
CGROUPS: Final = "/sys/fs/cgroup"
#: As CPython 3.13 has it: a number, or "default" for none.
CPU_VARIABLE: Final = "PYTHON_CPU_COUNT"
#: The memory that a worker is assumed to need when everycore chooses the number of workers.
WORKER_MEMORY: Final = 96 * 1024 * 1024
#: v1 writes "no limit" as the largest page-aligned number of 63 bits. No number near it is a limit.
_NO_LIMIT: Final = 1 << 62


class Bound(msgspec.Struct, frozen=True):
    """A number of workers or CPUs, and the reason for it, in words."""

    count: int
    reason: str


def is_linux() -> bool:
    """Whether a cluster can run on this system."""
    return sys.platform == "linux"


def require_linux(feature: str) -> None:
    """Raise `UnsupportedPlatform` unless this system is Linux."""
    if not is_linux():
        raise UnsupportedPlatform(feature, sys.platform)


def cpu_count() -> int:
    """How many CPUs this process may use: the smaller of its affinity and the CPU quota of its cgroups.

    The quotas of all ancestors of the cgroups count too. A quota of 1.5 CPUs counts as 2. `PYTHON_CPU_COUNT`
    overrides both.

    Raises: ConfigurationError if that variable is not a number.
    """
    return cpu_bound().count


def memory_limit(*, membership: Path = MEMBERSHIP, root: Path = CGROUPS) -> int | None:
    """The smallest memory limit of this process's cgroups, in bytes; None without a limit."""
    limits = [
        *_numbers(_groups("", membership, root), "memory.max"),
        *_numbers(_groups("memory", membership, root), "memory.limit_in_bytes"),
    ]
    return min((limit for limit in limits if 0 < limit < _NO_LIMIT), default=None)


def cpu_bound(
    *,
    environ: Mapping[str, str] = os.environ,
    affinity: int | None = None,
    membership: Path = MEMBERSHIP,
    root: Path = CGROUPS,
) -> Bound:
    """`cpu_count()` with its reason. Tests pass the arguments."""
    chosen = environ.get(CPU_VARIABLE, "")
    if chosen and chosen != "default":
        return Bound(_chosen_count(chosen), CPU_VARIABLE)
    cpus = _affinity() if affinity is None else affinity
    quota = _cpu_quota(membership, root)
    if quota is not None and quota < cpus:
        return Bound(quota, "the CPU quota of its cgroup")
    return Bound(cpus, "the CPUs it may run on")


def worker_bound(cpus: Bound, memory: int | None) -> Bound:
    """The number of workers for "auto": one for each CPU, unless the memory limit has room for fewer."""
    if memory is None or memory // WORKER_MEMORY >= cpus.count:
        return cpus
    room = max(memory // WORKER_MEMORY, 1)
    return Bound(room, f"the memory limit of {memory // 2**20} MiB at {WORKER_MEMORY // 2**20} MiB a worker")


def _chosen_count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if count < 1:
        raise ConfigurationError(
            "cpu_count", f"must be a whole number of at least 1, not {text!r}", source=CPU_VARIABLE
        )
    return count


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quota(membership: Path, root: Path) -> int | None:
    """The smallest quota in whole CPUs, rounded up; None without a quota."""
    texts = [_text(join(group, "cpu.max")) for group in _groups("", membership, root)]
    texts += [
        f"{_text(join(group, 'cpu.cfs_quota_us'))} {_text(join(group, 'cpu.cfs_period_us'))}"
        for group in _groups("cpu", membership, root)
    ]
    pairs = [
        (_number(quota), _number(period)) for quota, _, period in (text.partition(" ") for text in texts)
    ]
    return min((-(-quota // period) for quota, period in pairs if quota > 0 and period > 0), default=None)


def _groups(controller: str, membership: Path, root: Path) -> Iterator[str]:
    """The folders of the process's group and its ancestors in the hierarchy of `controller` ("" is v2's)."""
    for line in _text(membership).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(",") or (controller == "" and hierarchy != "0"):
            continue
        for mount in _mounts(controller, controllers, root):
            parts = [part for part in path.split("/") if part]
            if ".." in parts:
                parts = []
            for depth in range(len(parts), -1, -1):
                yield join(mount, *parts[:depth])


def _mounts(controller: str, controllers: str, root: Path) -> tuple[str, ...]:
    """Where a hierarchy is mounted. v1: under one name or all of them; v2: at the root, or in `unified`."""
    names = ("", "unified") if controller == "" else tuple(dict.fromkeys((controller, controllers)))
    return tuple(join(root, name) for name in names)


def _numbers(groups: Iterator[str], name: str) -> Iterator[int]:
    for group in groups:
        yield _number(_text(join(group, name)))


def _number(text: str) -> int:
    """A whole number; -1, which is never a limit, for any other text (such as "max")."""
    return int(text) if text.isascii() and text.isdigit() else -1


def _text(path: Path) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
