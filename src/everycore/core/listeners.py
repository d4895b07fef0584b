"""Which listener answers which `listen`: the book of listeners.

Job: find, number and forget listeners; say what a request should get. Invariant: a worker holds a listener
at most once. Binding, and what the kernel says to it, is not decided here. Must not import socket or os:
families and kinds are plain numbers.

The rules (design, section 2; Node: `lib/internal/cluster/child.js`):

* workers that ask for an equal key (address, family, kind, fd, index) share one listener;
* port 0: the n-th open `listen(0)` of each worker is the n-th port, so the index is the smallest one that
  this worker
  does not hold. (Node's index came from a counter and was never given back by an error.)
* a listener is also found by its real address (Node: EADDRINUSE, a known limitation);
* the same worker twice on a fixed address: EADDRINUSE, as a lone process would see.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

#: errno of "address already in use"; the number is the kernel's (asm-generic/errno.h).
EADDRINUSE: Final = 98


@dataclass(frozen=True, slots=True)
class ListenKey:
    """What was asked for.

    `address` is hashable: a tuple for IP, str or bytes for a unix path, None with `fd`.
    """

    address: Hashable
    family: int
    kind: int
    fd: int | None = None
    index: int = 0

    @property
    def any_port(self) -> bool:
        """Whether the kernel is to choose the port."""
        return isinstance(self.address, tuple) and len(self.address) > 1 and self.address[1] == 0


@dataclass(slots=True)
class Entry:
    """A listener in the book. `bound` is the driver's object for it; `real` is what `getsockname` says."""

    id: int
    key: ListenKey
    v6only: bool
    real: Hashable
    bound: Any
    holders: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Share:
    """Answer: this listener."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Bind:
    """Answer: bind a new one, and `add` it under this key."""

    key: ListenKey


@dataclass(frozen=True, slots=True)
class Conflict:
    """Answer: no; the errno a lone process would see."""

    errno: int


class ListenerBook:
    """All listeners of one cluster."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._by_key: dict[ListenKey, Entry] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, listener: int) -> Entry | None:
        """The entry with that id."""
        return self._entries.get(listener)

    def ask(self, worker: int, key: ListenKey, *, v6only: bool = False) -> Share | Bind | Conflict:
        """What `worker`, which asks for `key` (its index is ignored), should get. Changes nothing."""
        if key.any_port:
            index = 0
            while entry := self._by_key.get(_indexed(key, index)):
                if worker not in entry.holders and entry.v6only == v6only:
                    return Share(entry)
                index += 1
            return Bind(_indexed(key, index))
        found = self._by_key.get(_indexed(key, 0)) or self._by_real_address(key)
        if found is None:
            return Bind(_indexed(key, 0))
        if worker in found.holders or found.v6only != v6only:
            return Conflict(EADDRINUSE)
        return Share(found)

    def _by_real_address(self, key: ListenKey) -> Entry | None:
        if key.fd is not None:
            return None
        for entry in self._entries.values():
            if (entry.real, entry.key.family, entry.key.kind) == (key.address, key.family, key.kind):
                return entry
        return None

    def add(self, key: ListenKey, *, v6only: bool, real: Hashable, bound: Any) -> Entry:
        """A new listener was bound for `key`."""
        self._last_id += 1
        entry = Entry(self._last_id, key, v6only, real, bound)
        self._entries[entry.id] = entry
        self._by_key[key] = entry
        return entry

    def remove(self, entry: Entry) -> None:
        """The listener is closed."""
        del self._entries[entry.id]
        del self._by_key[entry.key]

    def held_by(self, worker: int) -> list[Entry]:
        """The listeners that `worker` holds."""
        return [entry for entry in self._entries.values() if worker in entry.holders]


def _indexed(key: ListenKey, index: int) -> ListenKey:
    return ListenKey(key.address, key.family, key.kind, key.fd, index)
