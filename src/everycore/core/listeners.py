"""Which listener answers which `listen`: the book of listeners.

Find, number and forget listeners, and decide the answer to each request. Invariant: a worker holds a listener
at most once. Binding, and the kernel's answer to it, are not decided here. A listener itself knows which
workers hold it. Families and kinds are plain numbers here.

The rules (design, section 2; Node: `lib/internal/cluster/child.js`):

* Workers that ask for an equal key (address, family, kind, fd, index) share one listener.
* Port 0: the n-th open `listen(0)` of each worker is the n-th port, so the index is the smallest one that
  this worker does not hold. (Node's index came from a counter, and an error never gave it back.)
* A listener is also found by its real address. (Node: EADDRINUSE, a known limitation.)
* A worker that asks twice for a fixed address gets EADDRINUSE, as a single process would.
* A listener serves workers of one user (`ListenKey.user`). A worker of another user gets EADDRINUSE.
* A worker that asks for more than `MOST_HELD` listeners gets EMFILE.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import msgspec

#: errno of "address already in use"; the number is the kernel's (asm-generic/errno.h).
EADDRINUSE: Final = 98
#: errno of "too many open files", likewise.
EMFILE: Final = 24
#: Listeners that one worker may hold at most: each costs the primary three descriptors.
MOST_HELD: Final = 256
OTHER_USER: Final = "workers of another user listen there"


class ListenKey(msgspec.Struct, frozen=True):
    """The identity of a listener, as a worker asks for it.

    `address` is hashable: a tuple for IP, str or bytes for a unix path, None with `fd`. `user` is the uid of
    the workers that it serves.
    """

    address: Hashable
    family: int
    kind: int
    fd: int | None = None
    index: int = 0
    user: int = 0

    @property
    def any_port(self) -> bool:
        """Whether the kernel chooses the port."""
        return isinstance(self.address, tuple) and len(self.address) > 1 and self.address[1] == 0


class Listing(msgspec.Struct, frozen=True):
    """A listener's entry in the book. `real` is the address that `getsockname` returns."""

    id: int
    key: ListenKey
    v6only: bool
    real: Hashable


class Listed(Protocol):
    """A listener in the book."""

    @property
    def listing(self) -> Listing:
        """Its entry in the book."""

    def holds(self, worker: int) -> bool:
        """Whether `worker` holds it."""


L = TypeVar("L", bound=Listed)


class ShareExisting(msgspec.Struct, Generic[L], frozen=True):
    """Answer: share this listener."""

    listener: L


class BindNew(msgspec.Struct, frozen=True):
    """Answer: bind a new listener for this key, `number` it, and `add` it."""

    key: ListenKey


class Conflict(msgspec.Struct, frozen=True):
    """Answer: refused, with the errno a single process would see. `why` adds what the errno does not say."""

    errno: int
    why: str = ""


class ListenerBook(Generic[L]):
    """All listeners of one cluster."""

    def __init__(self) -> None:
        self._listeners: dict[int, L] = {}
        self._by_key: dict[ListenKey, L] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[L]:
        return iter(tuple(self._listeners.values()))

    def __len__(self) -> int:
        return len(self._listeners)

    def get(self, listener: int) -> L | None:
        """Return the listener with that id."""
        return self._listeners.get(listener)

    def ask(
        self, worker: int, key: ListenKey, *, v6only: bool = False, least: int = 0
    ) -> ShareExisting[L] | BindNew | Conflict:
        """Return the answer to `worker`, which asks for `key` (its index is ignored). Changes nothing.

        least: the smallest index for port 0. A worker that counts its requests itself, closed ones included,
            passes its count.
        """
        if len(self.held_by(worker)) >= MOST_HELD:
            return Conflict(EMFILE, f"the worker holds {MOST_HELD} listeners, the most that it may")
        if key.any_port:
            index = least
            while listener := self._by_key.get(_indexed(key, index)):
                if not listener.holds(worker) and listener.listing.v6only == v6only:
                    return ShareExisting(listener)
                index += 1
            return BindNew(_indexed(key, index))
        found = self._by_key.get(_indexed(key, 0)) or self._by_real_address(key)
        if found is None:
            return BindNew(_indexed(key, 0))
        if found.listing.key.user != key.user:
            return Conflict(EADDRINUSE, OTHER_USER)
        if found.holds(worker) or found.listing.v6only != v6only:
            return Conflict(EADDRINUSE)
        return ShareExisting(found)

    def _by_real_address(self, key: ListenKey) -> L | None:
        return None if key.fd is not None else self._at(key, key.address)

    def _at(self, key: ListenKey, real: Hashable) -> L | None:
        for listener in self._listeners.values():
            its = listener.listing
            if (its.real, its.key.family, its.key.kind) == (real, key.family, key.kind):
                return listener
        return None

    def is_of_others(self, key: ListenKey, real: Hashable) -> bool:
        """Whether workers of another user listen on `real`, the address that `key` turned out to mean."""
        found = self._at(key, real)
        return found is not None and found.listing.key.user != key.user

    def number(self, key: ListenKey, *, v6only: bool, real: Hashable) -> Listing:
        """Return the entry of a new listener that was bound for `key`."""
        self._last_id += 1
        return Listing(self._last_id, key, v6only, real)

    def add(self, listener: L) -> None:
        """Enter a new listener."""
        self._listeners[listener.listing.id] = listener
        self._by_key[listener.listing.key] = listener

    def remove(self, listener: L) -> None:
        """Remove a listener that is closed."""
        del self._listeners[listener.listing.id]
        del self._by_key[listener.listing.key]

    def held_by(self, worker: int) -> list[L]:
        """Return the listeners that `worker` holds."""
        return [listener for listener in self._listeners.values() if listener.holds(worker)]


def _indexed(key: ListenKey, index: int) -> ListenKey:
    return ListenKey(key.address, key.family, key.kind, key.fd, index, key.user)
