"""Real programs as processes, seen from outside: what they print, how they end, what they leave behind."""

import os
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals, pidfd_send_signal
from types import TracebackType
from typing import IO, Literal, Self

from tests.kit.limits import scaled
from tests.kit.processes import descendants, everybody, look, process_tree, wait_gone

Stream = Literal["stdout", "stderr"]

# A program under test does not inherit the settings of everycore in this environment.
_FOREIGN = re.compile(
    r"_?EVERYCORE_(?!TEST_|WITHOUT)\w*|WEB_CONCURRENCY|PYTHON_CPU_COUNT|KUBERNETES_\w+|NOTIFY_SOCKET|LISTEN_\w+|PYTHON(ASYNCIODEBUG|DEVMODE|WARNINGS)"
)
_TOKEN = "EVERYCORE_TEST_PROGRAM"  # marks a program's processes wherever they go
_PIPE_SIZE = 1 << 20
GRACE = 5.0  # how long processes may outlive a program that has ended by itself


class ProgramFailure(AssertionError):
    """A program did not do what the test waited for."""


class _Output:
    """One output stream: all of it so far, and how far `expect` has read it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.fd = file.fileno()
        self.data = bytearray()
        self.looked = 0
        self.ended = False
        os.set_blocking(self.fd, False)

    def read(self) -> None:
        while not self.ended:
            try:
                chunk = os.read(self.fd, 65536)
            except BlockingIOError:
                return
            self.data += chunk
            self.ended = not chunk

    def search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Search whole lines that were not searched before, and stop behind the matching one."""
        while True:
            end = self.data.find(b"\n", self.looked)
            if end < 0 and not (self.ended and self.looked < len(self.data)):
                return None
            end = len(self.data) if end < 0 else end
            line = self.data[self.looked : end].decode(errors="replace")
            self.looked = min(end + 1, len(self.data))
            if match := pattern.search(line):
                return match

    def text(self) -> str:
        self.read()
        return self.data.decode(errors="replace")


class Program:
    """A process in a session of its own, with a pipe as stdin. Use it in a `with` block.

    Leaving the block kills what is left of its process tree. If processes outlive a program that has ended by
    itself, the block fails, unless it fails already. Then everything that is known is printed.
    """

    def __init__(
        self, argv: Sequence[str], *, cwd: Path | str, env: Mapping[str, str | None] | None = None
    ) -> None:
        self.argv = list(argv)
        self._before_env = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
        self._token = os.urandom(8).hex()
        surroundings: dict[str, str | None] = {
            **self._before_env,
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            **(env or {}),
            _TOKEN: self._token,
        }
        self._process = subprocess.Popen(
            self.argv,
            cwd=cwd,
            env={name: value for name, value in surroundings.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pipesize=_PIPE_SIZE,  # a test that reads elsewhere must not stop the program
        )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        assert self._process.stdout and self._process.stderr  # noqa: PT018
        self._outputs = {"stdout": _Output(self._process.stdout), "stderr": _Output(self._process.stderr)}

    @classmethod
    def script(
        cls,
        source: str | Path,
        *args: str,
        folder: Path,
        env: Mapping[str, str | None] | None = None,
        flags: Sequence[str] = (),
        cwd: Path | str | None = None,
    ) -> Self:
        """Run Python source (a str, written to a file in `folder`) or a file (a Path) as `python` does."""
        if isinstance(source, str):
            number = len(list(folder.glob("program*.py")))
            path = folder / f"program{number or ''}.py"
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        else:
            path = source.absolute()
        return cls([sys.executable, "-u", *flags, str(path), *args], cwd=cwd or folder, env=env)

    # What it says

    @property
    def stdout(self) -> str:
        """Everything that it has printed so far."""
        return self._outputs["stdout"].text()

    @property
    def stderr(self) -> str:
        return self._outputs["stderr"].text()

    def expect(self, pattern: str, timeout: float = 15.0, *, stream: Stream = "stdout") -> re.Match[str]:
        """Wait for a line in which `pattern` is found, behind the line that the last `expect` found."""
        compiled = re.compile(pattern)
        output = self._outputs[stream]
        deadline = time.monotonic() + scaled(timeout)
        while True:
            # Everything that the process wrote before it closed is read first, so this order matters.
            output.read()
            if match := output.search(compiled):
                return match
            if output.ended:
                raise ProgramFailure(f"{stream} ended, no line with {pattern!r} in it; {self._fate()}")
            if not self._wait_output(deadline):
                raise ProgramFailure(
                    f"no line with {pattern!r} on {stream} within {timeout:g} s; {self._fate()}"
                )

    def write(self, text: str) -> None:
        """Write to its stdin."""
        assert self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def close_stdin(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()

    # How it lives and ends

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int = SIGTERM) -> None:
        """Send a signal to the process itself, not to its group."""
        pidfd_send_signal(self._pidfd, number)

    def signal_group(self, number: int = SIGINT) -> None:
        """Send a signal to its group, as the terminal does for Ctrl-C."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end. Returns the exit code, or minus the number of the signal that killed it."""
        deadline = time.monotonic() + scaled(timeout)
        while not self._has_ended():
            if not self._wait_output(deadline, self._pidfd):
                raise ProgramFailure(f"still running after {timeout:g} s")
            self._read_all()
        status = self._process.wait()
        self._read_all()
        return status

    def finish(self, number: int = SIGTERM, *, timeout: float = 30.0) -> int:
        """Send a signal, then `wait`."""
        self.signal(number)
        return self.wait(timeout)

    def processes(self) -> list[int]:
        """Every live process of this program: descendants, its session, and all that have its token."""
        found = dict.fromkeys([self.pid, *descendants(self.pid)])
        for process in everybody():
            if process.session == self.pid or self._has_token(process.pid):
                found[process.pid] = None
                found.update(dict.fromkeys(descendants(process.pid)))
        return [pid for pid in found if (seen := look(pid)) and not seen.is_zombie]

    def descendants(self) -> list[int]:
        """The pids of its children and theirs."""
        return descendants(self.pid)

    def report(self) -> str:
        """Everything that is known, for a person."""
        left = [pid for pid in self.processes() if pid != self.pid and pid not in descendants(self.pid)]
        return "\n".join(
            [
                f"==== {' '.join(self.argv)} (pid {self.pid}): {self._fate()}",
                "---- processes",
                process_tree(self.pid, *left),
                "---- stdout",
                self.stdout.rstrip(),
                "---- stderr",
                self.stderr.rstrip(),
                "====",
            ]
        )

    # The end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def close(self, *, failed: bool = False) -> None:
        """Kill and forget; idempotent. `failed`: the test has failed, so print what is known."""
        if self._pidfd < 0:
            return
        if failed:
            print(self.report(), file=sys.stderr)
        try:
            survivors = self._survivors() if not failed and not self.is_running else []
            picture = process_tree(*survivors)
            stubborn = self._kill_all()
            self._read_all()
        finally:
            self._forget()
        if survivors:
            raise ProgramFailure(
                f"the program ended and left processes behind:\n{picture}\n---- stderr\n{self.stderr}"
            )
        if stubborn:
            raise ProgramFailure(f"not even SIGKILL ended {stubborn}")

    def _survivors(self) -> list[int]:
        """The processes that are still alive some time after the program's own end."""
        return wait_gone(self.processes(), timeout=GRACE)

    def _kill_all(self) -> list[int]:
        # A process may fork meanwhile, so repeat this until none is left.
        for _ in range(10):
            alive = self.processes()
            if not alive:
                break
            for pid in alive:
                try:
                    os.kill(pid, SIGKILL)
                except ProcessLookupError:
                    pass
            wait_gone(alive, timeout=10.0)
            self._process.poll()
        return self.processes()

    def _forget(self) -> None:
        os.close(self._pidfd)
        self._pidfd = -1
        if self._process.stdin:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        for output in self._outputs.values():
            output.ended = True
            output.file.close()
        self._process.wait()

    def _has_ended(self) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def _has_token(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"{_TOKEN}={self._token}".encode() in file.read()
        except OSError:
            return False

    def _read_all(self) -> None:
        for output in self._outputs.values():
            output.read()

    def _wait_output(self, deadline: float, *others: int) -> bool:
        """Wait until either stream has something to read, so that neither can fill up."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        poller = select.poll()
        for output in self._outputs.values():
            if not output.ended:
                poller.register(output.fd, select.POLLIN)
        for fd in others:
            poller.register(fd, select.POLLIN)
        ready = poller.poll(remaining * 1000)
        self._read_all()
        return bool(ready)

    def _fate(self) -> str:
        status = self._process.poll()
        if status is None:
            return "running"
        return f"exited with {status}" if status >= 0 else f"killed by {Signals(-status).name}"
