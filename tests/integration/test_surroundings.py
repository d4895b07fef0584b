"""What a service inherits and cannot choose: signals, standard streams, its terminal."""

import asyncio
import errno
import fcntl
import os
import pty
import re
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import everycore
from everycore.system import seam
from tests.kit import Program, children, open_fds, scaled
from tests.kit.running import ANSWER, ask, ask_http, run
from tests.kit.running import command as run_command
from tests.kit.serving import APP
from tests.kit.serving import command as serve_command
from tests.kit.workers import HEAD

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

#: Starts a command line as another program might: `python -c LAUNCH STATEMENT COMMAND...`.
LAUNCH = "import os, signal, sys; exec(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
SIGCHLD_IGNORED = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
NOTHING = {0: "/dev/null", 1: "/dev/null"}
ALL_BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"

#: A primary that keeps two workers, through the public interface alone.
LIBRARY = (
    HEAD
    + ANSWER
    + """
import logging

async def primary():
    async with everycore.Cluster() as cluster:
        cluster.on(everycore.Exited, again(cluster))
        cluster.on(everycore.Ready, lambda _: told(cluster))
        for _ in range(2):
            cluster.fork()
        await for_ever()

def again(cluster):
    def callback(event):
        logging.warning("ended: %s", event.status)
        if not event.voluntary:
            cluster.fork()
    return callback

def told(cluster):
    if sum(worker.is_ready for worker in cluster.workers.values()) == 2:
        logging.warning("listens on tcp://127.0.0.1:%d", cluster.snapshot().listeners[0].address[1])
        logging.warning("ready: all 2 workers")

everycore.run(primary() if everycore.is_primary else main())
"""
)


class Started:
    """A service of two workers, of any kind."""

    def __init__(self, program: Program, asks: Callable[[int], str]) -> None:
        self.program = program
        self.asks = asks
        found = program.expect(r"(?:serving|listens) .*on .*127\.0\.0\.1:(\d+)", stream="stderr")
        program.expect("ready: all", stream="stderr")
        self.port = int(found[1])

    def answer(self) -> str:
        return self.asks(self.port)


@pytest.fixture(params=["serve", "run", "library"])
def start(request, start_command, tmp_path) -> Callable[[str], Started]:
    """Start two workers through a launcher that executes `statement` first."""
    kind = request.param
    sources = {"serve": APP, "run": ANSWER + "\nasyncio.run(main())\n", "library": LIBRARY}
    (tmp_path / "main.py").write_text(sources[kind], encoding="utf-8")
    argv = {
        "serve": [*serve_command("--workers", "2", "--grace", "5")],
        "run": run_command("main.py", workers=2),
        "library": [sys.executable, "main.py"],
    }[kind]

    def start_it(statement: str) -> Started:
        program = start_command([sys.executable, "-c", LAUNCH, statement, *argv])
        return Started(program, ask_http if kind == "serve" else ask)

    return start_it


def test_with_sigchld_ignored_a_worker_is_replaced_and_a_stop_ends(start):
    """Otherwise the kernel would reap workers, and the primary never learn how they ended."""
    started = start(SIGCHLD_IGNORED)
    first, second = children(started.program.pid)
    os.kill(first, signal.SIGKILL)
    started.program.expect("ended: killed by SIGKILL", stream="stderr")
    while len(now := children(started.program.pid)) < 2 or first in now:
        started.answer()
    assert second in now
    assert started.program.finish() == 0
    assert "Traceback" not in started.program.stderr


def test_with_all_signals_blocked_it_stops_when_it_is_told_to(start):
    """A mask survives exec: neither the primary nor a worker would get SIGTERM."""
    started = start(ALL_BLOCKED)
    assert started.answer()
    assert started.program.finish() == 0
    assert "killed" not in started.program.stderr


def test_numbers_of_closed_standard_streams_are_not_used_for_anything_else(start):
    """uvloop aborts the process when it closes its own descriptor with such a number."""
    started = start("os.close(0); os.close(1)")
    assert started.answer()
    for pid in (started.program.pid, *children(started.program.pid)):
        assert {fd: name for fd, name in open_fds(pid).items() if fd < 2} == NOTHING
    assert started.program.finish() == 0
    assert "Assertion" not in started.program.stderr


def test_a_worker_hears_what_its_primary_has_blocked(start_program):
    """A primary may wait for its signals by sigwait(3). That must not make a worker's program deaf."""
    program = start_program(
        HEAD
        + """
async def primary():
    async with everycore.Cluster(grace=20) as cluster:
        events = cluster.events(everycore.Online)
        worker = cluster.fork()
        await anext(events)
        worker.disconnect()
        say(await worker.wait())
        say(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

if everycore.is_primary:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    asyncio.run(primary())
else:
    threading.Event().wait()
"""
    )
    program.expect("^exit status 0$")
    program.expect("^True$")
    assert program.wait() == 0


def test_a_cluster_in_another_thread_bears_that_sigchld_is_ignored(start_program):
    """Only the main thread can change that: the end of a worker is known, but not its status."""
    program = start_program(
        HEAD
        + """
async def primary():
    async with everycore.Cluster() as cluster:
        worker = cluster.fork()
        worker.kill(signal.SIGKILL)
        say(await worker.wait())

if everycore.is_primary:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    thread = threading.Thread(target=asyncio.run, args=(primary(),))
    thread.start()
    thread.join()
else:
    everycore.run(for_ever())
"""
    )
    program.expect("ended, status unknown")
    assert program.wait() == 0


class Log:
    """A FIFO for a log. The test decides when it is read."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, 4096)
        self._text = ""

    def fill(self) -> None:
        """Fill it with lines of dots, to the last byte."""
        for part in (b"." * 511 + b"\n", b"."):
            try:
                while True:
                    os.write(self._fd, part)
            except BlockingIOError:
                continue

    def until(self, pattern: str) -> re.Match[str]:
        """Read up to a match of `pattern`; the rest is kept for the next call. The test's limit applies."""
        os.set_blocking(self._fd, True)
        while not (match := re.search(pattern, self._text)):
            self._text = self._text.rpartition("\n")[2] + os.read(self._fd, 65536).decode()
        self._text = self._text[match.end() :]
        os.set_blocking(self._fd, False)
        return match

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    made = Log(tmp_path / "log")
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["serve", "run"])
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
def test_no_process_waits_for_a_reader_of_the_log(start_command, tmp_path, log, kind, policy):
    """With the pipe full, connections are answered, a dead worker is replaced, and SIGTERM is obeyed."""
    # An application that writes to the full pipe by itself waits until it is killed.
    quiet = "\n".join(line for line in APP.splitlines() if "shut down" not in line)
    source = quiet if kind == "serve" else ANSWER + "\nasyncio.run(main())\n"
    (tmp_path / "main.py").write_text(source, encoding="utf-8")
    options = ["--policy", policy, "--grace", "5"]
    if policy == "shared":  # the other way to the same pipe
        options += ["--log-file", "log", "--log-format", "json"]
    if kind == "serve":
        argv = serve_command("--workers", "2", "--show-counts", "--access-log", *options)
    else:
        argv = run_command("main.py", workers=2, options=options)
    redirect = "for fd in (1, 2): os.dup2(os.open('log', os.O_WRONLY), fd)"
    program = start_command([sys.executable, "-c", LAUNCH, redirect, *argv])
    port = int(log.until(r"(?:serving|listens).*127\.0\.0\.1:(\d+)")[1])
    log.until("ready: all")
    asks = ask_http if kind == "serve" else ask
    log.fill()
    first, _ = children(program.pid)
    os.kill(first, signal.SIGKILL)
    while len(now := children(program.pid)) < 2 or first in now:
        asks(port)
    log.until(r"ended: killed by SIGKILL")
    log.fill()
    assert asks(port)
    assert program.finish() == 0


@pytest.mark.parametrize("kind", ["serve", "run"])
@pytest.mark.parametrize("group", ["foreground", "background"])
def test_a_terminal_that_stops_background_jobs_stops_no_worker(start_command, tmp_path, kind, group):
    """`stty tostop`: workers lead their own groups, which are background jobs of the terminal."""
    source = APP if kind == "serve" else ANSWER + "\nasyncio.run(main())\n"
    source = "import os\nos.write(1, b'imported\\n')\n" + source
    (tmp_path / "main.py").write_text(source, encoding="utf-8")
    argv = serve_command("--workers", "2") if kind == "serve" else run_command("main.py", workers=2)
    primary, secondary = pty.openpty()
    mode = termios.tcgetattr(secondary)
    mode[3] |= termios.TOSTOP
    termios.tcsetattr(secondary, termios.TCSANOW, mode)
    to_background = (
        ""
        if group == "foreground"
        else "\nif pid := os.fork(): sys.exit(os.waitpid(pid, 0)[1])\nos.setpgid(0, 0)"
    )
    launch = f"for fd in (1, 2): os.dup2(os.open({os.ttyname(secondary)!r}, os.O_RDWR), fd)" + to_background
    program = start_command([sys.executable, "-c", LAUNCH, launch, *argv])
    text = b""
    try:
        while text.count(b"imported") < 2 or b"ready: all 2 workers" not in text:
            text += os.read(primary, 65536)
        port = int(re.findall(rb"(?:serving|listens).*127\.0\.0\.1:(\d+)", text)[0])
        with socket.create_connection(("127.0.0.1", port), timeout=scaled(20)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100)
        target = program.pid if group == "foreground" else children(program.pid)[0]
        os.kill(target, signal.SIGTERM)
        assert program.wait() == 0
    finally:
        os.close(primary)
        os.close(secondary)


#: Shares its socket with a duplicate from before `bind`, which it has made blocking.
BLOCKING = """
import os, signal, socket
sock = socket.socket()
copy = sock.dup()
sock.bind(("127.0.0.1", 0))
sock.listen()
while True:
    connection, _ = sock.accept()
    with connection:
        copy.setblocking(True)
        connection.recv(100)
        connection.sendall(b"%d\\n" % os.getpid())
"""


def test_a_program_that_makes_its_listener_blocking_stops_no_primary(start_command, tmp_path):
    """The primary has the same open file; it would wait in accept(2), deaf to SIGTERM."""
    running = run(start_command, tmp_path, BLOCKING)
    port = running.port()
    for _ in range(3):
        running.everybody_answers(port)
    assert running.program.finish() == 0


def test_why_no_worker_could_be_started_is_told_with_what_to_raise():
    """EAGAIN of fork(2): the limit of processes. The error of `Pool.wait` says so."""

    class Exhausted(seam.Linux):
        @staticmethod
        def spawn(*_, **__):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def main():
        seam.current.set(Exhausted())
        async with everycore.Pool(2, settings=everycore.Settings(exec="server.py")) as pool:
            await pool.wait()

    with pytest.raises(
        everycore.BootError, match=r"cannot start: worker 1 .*\[Errno 11\].*ulimit -u"
    ) as told:
        asyncio.run(main())
    assert "\n" not in str(told.value)
