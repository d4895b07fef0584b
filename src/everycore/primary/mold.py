"""One mold's process: started as a worker is, asked for workers, and ended.

Invariants: it is reaped once. A worker that it has made is known here before anything else is heard of that
worker. A worker that is not known here ends by itself, because its messages have no reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec

from everycore.aio.deadline import Deadline
from everycore.core import mold_wire
from everycore.errors import ConfigurationError, ProtocolError
from everycore.model import ExitStatus
from everycore.primary import spawner
from everycore.primary.outfit import Outfit
from everycore.settings import Settings, names_to_preload
from everycore.system import molding, processes
from everycore.system.descriptors import close_all
from everycore.system.ended import wait_for_end
from everycore.system.leash import Leash
from everycore.system.plain_files import APPENDING
from everycore.system.processes import Credentials, Spawned
from everycore.system.seam import System
from everycore.system.strange import close_emptied, close_strange

VARIABLE: Final = "_EVERYCORE_MOLD"
#: The mold's program if everycore lies in an archive and so has no such script. The folder is put in front of
#: `sys.path`.
_IN_ARCHIVE: Final = (
    "import sys; sys.path.insert(0, {folder!r}); from everycore.mold.process import main; del sys.path[0];"
    " main(globals())"
)
#: In seconds. After the mold's end, messages of a worker that it was making may still be on their way.
LAST_WORDS: Final = 1.0
#: The most messages of a mold that are handled in one turn of the loop.
READS_A_TURN: Final = 16
#: How long the end of the cluster waits for the kernel to take a killed mold apart, in seconds.
_LAST_STEPS: Final = 2.0


class MoldOwner(Protocol):
    """The owner of a mold."""

    def knows(self, pid: int) -> bool:
        """Whether that process is a worker already."""

    def on_prepared(self, mold: Mold, said: mold_wire.MoldIsPrepared) -> None:
        """The mold has imported everything."""

    def on_born(self, mold: Mold, spawned: Spawned) -> None:
        """The worker that the mold was asked for exists."""

    def on_answered(self, mold: Mold, problem: str) -> None:
        """The mold has finished a request. problem: why there is no worker, or empty."""

    def on_gone(self, mold: Mold, why: str) -> None:
        """The mold has ended, or cannot be prepared. No further call follows."""


class Mold:
    """A mold, from its start to its end. `number` is its owner's name for it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        system: System,
        owner: MoldOwner,
        number: int,
        settings: Settings,
        terms: spawner.SpawnTerms,
    ) -> None:
        self.number = number
        self.settings = settings
        #: How many workers it has made.
        self.made = 0
        self._loop = loop
        self._system = system
        self._owner = owner
        self._terms = terms
        self._birth: Outfit | None = None
        self._is_born = self._is_prepared = False
        #: A worker that has spoken before it was a child of this process.
        self._early: int | None = None
        self._env: dict[str, str] = {}
        self._uid = -1
        self._socket: socket.socket | None = None
        self._spawned: Spawned | None = None
        self._problem = self._lost = ""
        self._status: ExitStatus | None = None
        self._patience = Deadline(loop, self._finish)

    @property
    def pid(self) -> int | None:
        """Its process id; None once it is gone."""
        return None if self._spawned is None else self._spawned.pid

    def start(self) -> None:
        """Start the process. Raises OSError or ConfigurationError."""
        settings = self.settings
        credentials, user_env = spawner.credentials_of(settings)
        self._env = spawner.environment(settings, user_env)
        self._uid = os.geteuid() if credentials.uid is None else credentials.uid
        command = mold_command(spawner.command_line(settings, self._system))
        ours, theirs = molding.make_signed_pair()
        leash = Leash()
        try:
            with _streams(settings) as streams:
                self._spawned = self._system.spawn(
                    command,
                    env=self._env | {VARIABLE: self._ticket(theirs.fileno(), leash.theirs, credentials)},
                    cwd=spawner.folder_of(settings),
                    stdio=streams,
                    pass_fds=(theirs.fileno(), *settings.pass_fds),
                    credentials=credentials,
                    new_group=self._terms.new_group,
                    leash=leash,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            leash.close()
        self._socket = ours
        self._loop.add_reader(ours, self._on_readable)
        self._loop.add_reader(self._spawned.pidfd, self._on_end)

    def _ticket(self, socket: int, leash: int, credentials: Credentials) -> str:
        ticket = mold_wire.MoldTicket(
            socket=(socket, os.fstat(socket).st_ino),
            leash=(leash, os.fstat(leash).st_ino),
            primary=os.getpid(),
            preload=names_to_preload(self.settings.preload),
            force=self.settings.preload_force,
            new_group=self._terms.new_group,
            is_confined=credentials.is_confined,
            pass_fds=tuple(self.settings.pass_fds),
        )
        return msgspec.json.encode(ticket).decode()

    def ask(self, birth: Outfit) -> None:
        """Ask for a worker. Raises OSError."""
        assert self._socket is not None
        channel, link, board, *tally = birth.fds
        fds = [channel, link, board, birth.leash.theirs, *tally, *birth.open_streams(), *birth.pass_fds]
        if len(fds) > mold_wire.MOST_DESCRIPTORS:
            raise OSError(errno.E2BIG, f"a mold is passed {mold_wire.MOST_DESCRIPTORS} descriptors at most")
        order = mold_wire.MakeWorker(birth.ticket, self._changes(birth.env), tuple(birth.pass_fds))
        data = mold_wire.encode(order)
        if len(data) > mold_wire.LONGEST:
            raise OSError(errno.E2BIG, "the variables that one worker has alone are too long for its mold")
        molding.send_with(self._socket, data, fds)
        self._birth, self._is_born, self._early, self._lost = birth, False, None, ""

    def _changes(self, env: Any) -> tuple[tuple[bytes, bytes | None], ...]:
        """The variables in which a worker differs from the mold at its start."""
        changed = {name: value for name, value in env.items() if self._env.get(name) != value}
        gone: dict[str, str | None] = dict.fromkeys(self._env.keys() - env.keys())
        return tuple(
            (os.fsencode(name), None if value is None else os.fsencode(value))
            for name, value in {**gone, **changed}.items()
        )

    def kill(self) -> None:
        """Send SIGKILL: a mold has nothing to finish."""
        if self._spawned is not None and self._status is None:
            self._system.send_signal(self._spawned.pidfd, signal.SIGKILL)

    def end_now(self) -> None:
        """Kill the mold and wait until it is gone. The owner is not told."""
        if self._spawned is not None and self._status is None:
            self.kill()
            wait_for_end(self._spawned.pid, _LAST_STEPS)
            self._status = self._system.reap(self._spawned.pidfd, group=self._group)
        self._let_go()

    def abandon(self) -> None:
        """In a forked child: close the copies of the descriptors. The parent's loop stays as it is."""
        if self._socket is not None:
            close_all((self._socket.detach(),))
        if self._spawned is not None:
            close_all(fd for fd in (self._spawned.pidfd, self._spawned.leash) if fd >= 0)

    def descriptors(self) -> list[int]:
        """The descriptors that belong to the mold, as numbers."""
        found = [] if self._socket is None else [self._socket.fileno()]
        return found if self._spawned is None else [*found, self._spawned.pidfd, self._spawned.leash]

    @property
    def _group(self) -> int:
        return self._spawned.pid if self._spawned is not None and self._terms.new_group else 0

    # --- messages -----------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        for _ in range(READS_A_TURN):  # a mold runs a program's code and may send messages without end
            if self._socket is None or not self._read_one():
                return

    def _read_one(self) -> bool:
        """Read a message. Returns False if there is none."""
        assert self._socket is not None
        try:
            packet = molding.receive_signed(self._socket, mold_wire.LONGEST)
        except BlockingIOError:
            return False
        except OSError:
            packet = None
        if packet is None:  # no process is left that could send anything
            self._close_socket()
            self.kill()
            if self._status is not None:
                self._finish()
            return False
        data, fds, pid, uid = packet
        close_strange(fds)
        try:
            self._hear(mold_wire.decode_from_mold(data), pid, uid)
        except ProtocolError as error:
            self._problem = str(error)
            self.kill()
        return True

    def _hear(self, said: mold_wire.FromMold, pid: int, uid: int) -> None:
        if isinstance(said, mold_wire.WorkerIsThere):
            if self._birth is not None and not self._is_born and uid == self._uid and pid != self.pid:
                self._take(self._birth, pid)
            return
        if pid != self.pid:  # a child of the application's own has the socket
            return
        match said:
            case mold_wire.MoldIsPrepared():
                if self._is_prepared:
                    raise ProtocolError("a mold is prepared once")
                self._is_prepared = True
                self._owner.on_prepared(self, said)
            case mold_wire.MoldCannotPrepare(text):
                self._problem = text
            case mold_wire.MoldHasAnswered(problem):
                self._take_early()
                was_born, self._birth = self._is_born, None
                if not was_born:
                    problem = self._lost or problem or "it ended before it ran"
                self._owner.on_answered(self, "" if was_born else problem)

    def _take(self, birth: Outfit, pid: int) -> None:
        """Take the sender named by the kernel as the new worker, if it is a child of this process."""
        if self._owner.knows(pid):
            return
        if not molding.is_child(pid):  # it speaks again once it is a child, unless it is killed before
            self._early = pid
            return
        pidfd = kept = -1
        ends_group = birth.new_group and birth.orphan_signal == signal.SIGKILL
        try:
            pidfd = os.pidfd_open(pid)
            kept = birth.leash.tie(pid, birth.orphan_signal, group=ends_group)
        except OSError as error:  # out of descriptors: the primary would never learn of its end
            close_all(fd for fd in (pidfd,) if fd >= 0)
            processes.end_child(pid)
            self._lost = f"it was made, but cannot be watched: {error.strerror}"
            return
        self._is_born = True
        self.made += 1
        self._owner.on_born(self, Spawned(pid, pidfd, birth.pipes, kept))

    def _take_early(self) -> None:
        """Take a worker that spoke early and was killed: it became a child and must be reaped."""
        if self._early is not None and self._birth is not None and not self._is_born:
            self._take(self._birth, self._early)

    # --- its end ------------------------------------------------------------------------------------------

    def _on_end(self) -> None:
        assert self._spawned is not None
        self._status = self._system.reap(self._spawned.pidfd, group=self._group)
        if self._status is None:
            return
        self._loop.remove_reader(self._spawned.pidfd)
        if self._socket is not None:
            self._on_readable()
        if self._spawned is None:  # that was the last message
            return
        if self._socket is None or self._birth is None or self._is_born:
            self._finish()
        else:
            self._patience.set_in(LAST_WORDS)

    def _finish(self) -> None:
        """No more messages of the mold are to come."""
        self._take_early()
        self._let_go()
        self._owner.on_gone(self, self._problem or f"the mold ended: {self._status}")

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            close_emptied(self._socket)
            self._socket = None

    def _let_go(self) -> None:
        self._patience.set(None)
        self._close_socket()
        if self._spawned is not None:
            self._loop.remove_reader(self._spawned.pidfd)
            close_all(fd for fd in (self._spawned.pidfd, self._spawned.leash) if fd >= 0)
            self._spawned = None


def mold_command(argv: Sequence[str]) -> list[str]:
    """The command line of the mold from which `argv` can be forked. Raises ConfigurationError."""
    name = os.path.basename(argv[0])
    if argv[0] != sys.executable and not name.startswith(("python", "pypy")):
        raise ConfigurationError("preload", f"needs a Python program, but exec names {argv[0]!r}")
    flags, program = processes.split_command(argv)
    if not program or program[0] == "-":
        raise ConfigurationError("preload", "needs a Python program, but exec names none")
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = os.path.join(package, "mold", "__main__.py")
    if os.path.isfile(script):
        return [argv[0], *flags, script, *program]
    return [argv[0], *flags, "-c", _IN_ARCHIVE.format(folder=os.path.dirname(package)), *program]


@contextlib.contextmanager
def _streams(settings: Settings) -> Iterator[list[Any]]:
    """Open the mold's streams: no input; output as a worker's, or as the primary's if that is a pipe."""
    with contextlib.ExitStack() as stack:
        found: list[Any] = [subprocess.DEVNULL]
        for item in spawner.three_streams(settings)[1:]:
            match item:
                case "pipe" | "inherit" | None:
                    found.append(None)
                case "null":
                    found.append(subprocess.DEVNULL)
                case str() | os.PathLike():
                    found.append(os.open(item, APPENDING, 0o666))
                    stack.callback(os.close, found[-1])
                case _:
                    found.append(item)
        yield found
