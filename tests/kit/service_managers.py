"""A fake service manager: systemd, as far as it listens, keeps descriptors and starts services.

manager = FakeSystemd(tmp_path, room=4)
program = manager.start(start_command, argv)      # its environment and descriptors are as systemd makes them
manager.wait_told("READY=1")
program.finish()
program = manager.start(start_command, argv)      # gets back what the first one has stored
"""

import contextlib
import fcntl
import os
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.kit.limits import scaled
from tests.kit.programs import Program

#: Runs in the new process until that becomes the service: sd_listen_fds(3) from the other side.
_BECOME = """
import fcntl, os, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    names, fds, _, _ = socket.recv_fds(sock, 65536, 64)
fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number, inheritable=True)
if fds:
    os.environ.update(
        LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names[1:].decode()
    )
os.execv(sys.argv[2], sys.argv[2:])
"""


class FakeSystemd:
    """The manager of one service.

    room: `FileDescriptorStoreMax=`. sockets: those of a socket unit, by name, which it opens for the service.
    """

    def __init__(
        self, folder: Path, room: int = 0, sockets: Sequence[tuple[str, socket.socket]] = ()
    ) -> None:
        self._folder = folder
        self._room = room
        self._sockets = sockets
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.setblocking(False)
        #: What it was told, one text for each message.
        self.told: list[str] = []
        #: The descriptors that it keeps, by name.
        self.stored: list[tuple[str, int]] = []
        #: The descriptors for which it had no room.
        self.refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.hear()
        self._notify.close()
        for _, fd in self.stored:
            os.close(fd)

    def start(self, start_command: Any, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Program:
        """Start the service, as `start_command` does."""
        self.hear()
        path = str(self._folder / "pass")
        with socket.socket(socket.AF_UNIX) as giving:
            giving.bind(path)
            giving.listen()
            variables = {"NOTIFY_SOCKET": str(self._folder / "notify"), **(env or {})}
            if self._room:
                variables["FDSTORE"] = str(self._room)
            program: Program = start_command(
                [sys.executable, "-c", _BECOME, path, *argv], env=variables, cwd=self._folder
            )
            giving.settimeout(scaled(20))
            taker, _ = giving.accept()
            with taker:
                passed = [(name, sock.fileno()) for name, sock in self._sockets] + self.stored
                names = ":".join(name for name, _ in passed)
                socket.send_fds(taker, [f"={names}".encode()], [fd for _, fd in passed])
        os.unlink(path)
        return program

    def hear(self) -> None:
        """Read the messages that have come so far."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._notify, 65536, 8)
            except BlockingIOError:
                return
            self._take(data.decode(), fds)

    def _take(self, text: str, fds: list[int]) -> None:
        self.told.append(text)
        said = dict(line.split("=", 1) for line in text.splitlines())
        if said.get("FDSTOREREMOVE") == "1":
            for name, fd in [one for one in self.stored if one[0] == said["FDNAME"]]:
                self.stored.remove((name, fd))
                os.close(fd)
        for fd in fds:
            known = any(os.path.samestat(os.fstat(fd), os.fstat(old)) for _, old in self.stored)
            if said.get("FDSTORE") == "1" and not known and len(self.stored) < self._room:
                high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
                self.stored.append((said["FDNAME"], high))
            elif not known:
                self.refused += 1
            os.close(fd)

    def wait_told(self, line: str) -> None:
        """Wait until a message with this line has come, after those of the last call."""
        deadline = time.monotonic() + scaled(20)
        poller = select.poll()
        poller.register(self._notify, select.POLLIN)
        while True:
            self.hear()
            for number, text in enumerate(self.told):
                if line in text.splitlines():
                    del self.told[: number + 1]
                    return
            left = deadline - time.monotonic()
            assert left > 0, f"{line} was not said: {self.told}"
            poller.poll(left * 1000)


@contextlib.contextmanager
def waiting_request(port: int | str, request: bytes) -> Any:
    """A client that has connected and sent its request. Yields a function that reads the answer."""
    sock = socket.socket(socket.AF_UNIX if isinstance(port, str) else socket.AF_INET)
    with sock:
        sock.settimeout(scaled(30))
        sock.connect(port if isinstance(port, str) else ("127.0.0.1", port))
        sock.sendall(request)
        yield lambda: b"".join(iter(lambda: sock.recv(65536), b""))
