"""The tally: shared memory in which each worker leaves its metrics, and the observer the sum of dead workers.

It has a part for the archive, then a slot for each worker. A slot is a page that names its worker, and two
halves that are written in turn. Invariant: whenever a writer is killed, the other half is whole. A slot goes
to another worker only once the observer has folded its content into the archive. Payloads are opaque here.

Facts: the memory file is sealed against shrinking and growing, so that no access ends in SIGBUS. It is
sparse: a page that was never written costs nothing. MADV_REMOVE gives pages back (madvise(2)). A program may
close any descriptor, and its number may become another file, so a worker writes through its mapping, never
through a descriptor. Every worker of that user could write anywhere in it, as on the board.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
import struct
import zlib
from typing import Final

from everycore.system.descriptors import duplicate

_PAGE: Final = 4096
#: The bytes of a worker's slot, and of the archive's part. Both are multiples of every page size.
SLOT: Final = 4 * 2**20
ARCHIVE: Final = 64 * 2**20
#: The number of slots, which count from 1: 0 stands for none.
CAPACITY: Final = 1024
SIZE: Final = ARCHIVE + CAPACITY * SLOT
#: The head of a slot: its state, and the id of its worker.
_OWNER: Final = struct.Struct("=QQ")
#: The head of a half: the number of the write (0: none), the length, and the checksum of both and of the
#: payload.
_HEAD: Final = struct.Struct("=QII")


class SlotState(enum.IntEnum):
    """The states of a slot, in the order in which it passes them."""

    FREE = 0
    TAKEN = 1
    LEFT = 2
    FOLDED = 3


class Halves:
    """Two halves of a mapping that are written in turn, with `most` bytes each at most."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._size = (len(memory) - _PAGE) // 2
        self.most = self._size - _HEAD.size
        self._number = max(self._head(half)[0] for half in (0, 1))

    def write(self, payload: bytes) -> None:
        """Replace the older half. `payload` has at most `most` bytes."""
        self._number += 1
        at = self._at(self._number % 2)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(payload)] = payload
        check = zlib.crc32(payload, self._number & 0xFFFFFFFF)
        self._memory[at : at + _HEAD.size] = _HEAD.pack(self._number, len(payload), check)

    def read(self) -> bytes | None:
        """Return the latest payload that is whole; None if there is none."""
        for half in sorted((0, 1), key=lambda half: self._head(half)[0], reverse=True):
            number, length, check = self._head(half)
            if number and length <= self.most:
                at = self._at(half) + _HEAD.size
                payload = self._memory[at : at + length]
                if zlib.crc32(payload, number & 0xFFFFFFFF) == check:
                    return payload
        return None

    def clear(self) -> None:
        """Forget both payloads, and give the pages back."""
        for half in (0, 1):
            self._memory[self._at(half) : self._at(half) + _HEAD.size] = bytes(_HEAD.size)
        self._memory.madvise(mmap.MADV_REMOVE, _PAGE, len(self._memory) - _PAGE)

    def _at(self, half: int) -> int:
        return _PAGE + half * self._size

    def _head(self, half: int) -> tuple[int, int, int]:
        number, length, check = _HEAD.unpack_from(self._memory, self._at(half))
        return number, length, check


def _place(slot: int) -> int:
    return ARCHIVE + (slot - 1) * SLOT


class PrimaryTally:
    """The tally of the primary, which gives slots out. Workers and observers inherit the descriptor `fd`.

    Raises OSError.
    """

    def __init__(self) -> None:
        fd = os.memfd_create("everycore-tally", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self.fd = duplicate(fd)  # never the number of a standard stream
        finally:
            os.close(fd)
        try:
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(
                self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
        except BaseException:
            os.close(self.fd)
            raise
        self._taken: set[int] = set()
        self._left: set[int] = set()

    def allot(self, worker: int) -> int:
        """Give `worker` a slot. Returns 0 if none is free: the observer folds none."""
        self._left = {slot for slot in self._left if self._state(slot) != SlotState.FOLDED}
        slot = 1
        while slot in self._taken or slot in self._left:
            slot += 1
        if slot > CAPACITY:
            return 0
        self._say(slot, SlotState.TAKEN, worker)
        self._taken.add(slot)
        return slot

    def leave(self, slot: int, worker: int) -> None:
        """Note that the worker of `slot` is gone."""
        if slot:
            self._taken.discard(slot)
            self._left.add(slot)
            self._say(slot, SlotState.LEFT, worker)

    def _say(self, slot: int, state: SlotState, worker: int) -> None:
        with contextlib.suppress(OSError):  # no memory: then the observer finds nothing of that worker
            os.pwrite(self.fd, _OWNER.pack(state, worker), _place(slot))

    def _state(self, slot: int) -> int:
        return int(_OWNER.unpack(os.pread(self.fd, _OWNER.size, _place(slot)))[0])

    def close(self) -> None:
        """Close the memory file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class WorkerTally:
    """A worker's own slot. Closes `fd`. Raises OSError."""

    def __init__(self, fd: int, slot: int) -> None:
        try:
            self._memory = mmap.mmap(fd, SLOT, offset=_place(slot))
        finally:
            os.close(fd)
        self._halves = Halves(self._memory)

    @property
    def most(self) -> int:
        """The most bytes of a payload."""
        return self._halves.most

    def write(self, payload: bytes) -> None:
        """Leave `payload` for the observer, in place of the previous one."""
        self._halves.write(payload)

    def close(self) -> None:
        """Unmap the slot."""
        self._memory.close()


class ObserverTally:
    """The tally of the observer, which reads what workers leave, and keeps the archive."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, ARCHIVE)
        self._archive = Halves(self._memory)

    @property
    def most(self) -> int:
        """The most bytes that the archive takes."""
        return self._archive.most

    def owners(self) -> dict[int, tuple[SlotState, int]]:
        """Map each slot that has a worker to its state and that worker."""
        found = {}
        for slot in range(1, CAPACITY + 1):
            state, worker = _OWNER.unpack(os.pread(self._fd, _OWNER.size, _place(slot)))
            if state == SlotState.FREE:  # the lowest free slot goes first: none above was ever taken
                break
            if state in (SlotState.TAKEN, SlotState.LEFT):
                found[slot] = SlotState(state), worker
        return found

    def read(self, slot: int) -> bytes | None:
        """What the worker of that slot has left; None if nothing is whole."""
        with mmap.mmap(self._fd, SLOT, offset=_place(slot), prot=mmap.PROT_READ) as memory:
            return Halves(memory).read()

    def archive(self) -> bytes | None:
        """What `keep` stored last; None if nothing is whole."""
        return self._archive.read()

    def keep(self, payload: bytes) -> None:
        """Keep `payload` in place of the previous one; at most `most` bytes."""
        self._archive.write(payload)

    def let_go(self, slot: int, worker: int) -> None:
        """Free the slot, whose content is in the archive, for another worker."""
        with mmap.mmap(self._fd, SLOT, offset=_place(slot)) as memory:
            with contextlib.suppress(OSError):
                Halves(memory).clear()
            memory[: _OWNER.size] = _OWNER.pack(SlotState.FOLDED, worker)

    def close(self) -> None:
        """Unmap the tally. The descriptor belongs to the caller."""
        self._memory.close()
