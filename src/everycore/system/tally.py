"""The tally: shared memory in which each worker leaves its own metrics, and the observer the sum of the dead.

A part for the archive, then a slot for each worker: a page that says whose it is, and two halves that are
written in turn. Invariant: whatever moment a writer is killed at, the other half is whole; a slot is given to
another worker only once the observer has folded what is in it into the archive. Payloads are opaque here.

Facts: the memory file is sealed against shrinking and growing, so that nobody's access ends in SIGBUS; it is
sparse, and a page that nobody has written costs nothing. MADV_REMOVE gives pages back (madvise(2)). A program
may close any descriptor, and its number may become another file: so a worker writes by its mapping, never by
a descriptor. Every worker of that user could write on all of it, as on the board.
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
#: Bytes of a worker's slot, and of the archive's part. Both are multiples of any size of a page.
SLOT: Final = 4 * 2**20
ARCHIVE: Final = 64 * 2**20
#: Slots, from 1 on: 0 stands for none.
CAPACITY: Final = 1024
SIZE: Final = ARCHIVE + CAPACITY * SLOT
#: Of a slot: its state, and the id of its worker.
_OWNER: Final = struct.Struct("=QQ")
#: Of a half: the number of the writing (0: none), the length, and the checksum of both and of what follows.
_HEAD: Final = struct.Struct("=QII")


class SlotState(enum.IntEnum):
    """What becomes of a slot, in this order."""

    FREE = 0
    TAKEN = 1
    LEFT = 2
    FOLDED = 3


class Halves:
    """What is written in turn into two halves of a mapping; `most` bytes at a time."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._size = (len(memory) - _PAGE) // 2
        self.most = self._size - _HEAD.size
        self._number = max(self._head(half)[0] for half in (0, 1))

    def write(self, payload: bytes) -> None:
        """Replace the older half; `payload` has at most `most` bytes."""
        self._number += 1
        at = self._at(self._number % 2)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(payload)] = payload
        check = zlib.crc32(payload, self._number & 0xFFFFFFFF)
        self._memory[at : at + _HEAD.size] = _HEAD.pack(self._number, len(payload), check)

    def read(self) -> bytes | None:
        """What was written last, and is whole; None: nothing is."""
        for half in sorted((0, 1), key=lambda half: self._head(half)[0], reverse=True):
            number, length, check = self._head(half)
            if number and length <= self.most:
                at = self._at(half) + _HEAD.size
                payload = self._memory[at : at + length]
                if zlib.crc32(payload, number & 0xFFFFFFFF) == check:
                    return payload
        return None

    def clear(self) -> None:
        """Forget what was written, and give the pages back."""
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
    """The tally as the primary has it: it gives slots out. `fd` is what workers and observers inherit.

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
        """A slot for that worker; 0: there is none, for nobody folds those that were left."""
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
        """The worker is gone."""
        if slot:
            self._taken.discard(slot)
            self._left.add(slot)
            self._say(slot, SlotState.LEFT, worker)

    def _say(self, slot: int, state: SlotState, worker: int) -> None:
        with contextlib.suppress(OSError):  # no memory: then nothing of that worker is there
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
        """Bytes that it takes."""
        return self._halves.most

    def write(self, payload: bytes) -> None:
        """Leave that for the observer, in place of what was left before."""
        self._halves.write(payload)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()


class ObserverTally:
    """The tally as the observer has it: it reads what workers leave, and keeps the archive."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, ARCHIVE)
        self._archive = Halves(self._memory)

    @property
    def most(self) -> int:
        """Bytes that the archive takes."""
        return self._archive.most

    def owners(self) -> dict[int, tuple[SlotState, int]]:
        """Slot -> its state and its worker, of those that have one."""
        found = {}
        for slot in range(1, CAPACITY + 1):
            state, worker = _OWNER.unpack(os.pread(self._fd, _OWNER.size, _place(slot)))
            if state == SlotState.FREE:  # the lowest free one is given out: none above was ever taken
                break
            if state in (SlotState.TAKEN, SlotState.LEFT):
                found[slot] = SlotState(state), worker
        return found

    def read(self, slot: int) -> bytes | None:
        """What the worker of that slot has left; None: nothing, or nothing whole."""
        with mmap.mmap(self._fd, SLOT, offset=_place(slot), prot=mmap.PROT_READ) as memory:
            return Halves(memory).read()

    def archive(self) -> bytes | None:
        """What was kept last."""
        return self._archive.read()

    def keep(self, payload: bytes) -> None:
        """Keep that in place of what was kept before; at most `most` bytes."""
        self._archive.write(payload)

    def let_go(self, slot: int, worker: int) -> None:
        """What was in the slot is in the archive: it may be given to another worker."""
        with mmap.mmap(self._fd, SLOT, offset=_place(slot)) as memory:
            with contextlib.suppress(OSError):
                Halves(memory).clear()
            memory[: _OWNER.size] = _OWNER.pack(SlotState.FOLDED, worker)

    def close(self) -> None:
        """Unmap it. The descriptor is the caller's."""
        self._memory.close()
