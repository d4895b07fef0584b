"""Restarts that lose no waiting connection: a service manager keeps the listeners meanwhile."""

import os
import signal
import socket
import sys
import textwrap

import pytest

from tests.kit import scaled
from tests.kit.ports import free_port
from tests.kit.running import ANSWER, ask
from tests.kit.running import command as run_command
from tests.kit.service_managers import FakeSystemd, waiting_request
from tests.kit.serving import APP, Served, finish

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def manager(tmp_path):
    with FakeSystemd(tmp_path, room=4) as manager:
        yield manager


@pytest.fixture
def served(manager, start_command, tmp_path):
    """`served(port)`: `everycore serve`, started by the manager; returns once it is ready."""
    (tmp_path / "main.py").write_text(APP)

    def start(port, *options):
        argv = [sys.executable, "-P", "-m", "everycore", "serve", "--workers", "1", "--control", "off"]
        program = manager.start(start_command, [*argv, "--bind", f"127.0.0.1:{port}", *options, "main:app"])
        manager.wait_told("READY=1")
        return Served(program, port)

    return start


@pytest.mark.parametrize(
    "options",
    [
        [],
        *(
            pytest.param(options, marks=pytest.mark.ci_only)
            for options in (
                ["--policy", "shared"],
                ["--policy", "sticky"],
                ["--engine", "hypercorn"],
                ["--preload"],
            )
        ),
    ],
    ids=" ".join,
)
def test_clients_that_connect_during_a_restart_are_served_by_the_next_primary(manager, served, options):
    port = free_port()
    first = served(port, *options)
    held = first.begin()
    first.program.signal(signal.SIGTERM)
    first.program.expect("SIGTERM: finishing the work at hand", stream="stderr")
    manager.wait_told("STOPPING=1")
    with waiting_request(port, REQUEST) as answer:
        assert b" 200 " in finish(held)
        assert first.program.wait() == 0
        second = served(port, *options)
        second.program.expect(rf"took over \S*127\.0\.0\.1:{port} from the previous primary", stream="stderr")
        assert b" 200 " in answer()
    assert second.program.finish() == 0
    assert len(manager.stored) == 1


@pytest.mark.ci_only
def test_clients_that_wait_when_the_primary_is_killed_are_served_by_the_next_one(served, manager):
    port = free_port()
    first = served(port)
    os.kill(first.program.pid, signal.SIGSTOP)
    with waiting_request(port, REQUEST) as answer:
        first.program.signal(signal.SIGKILL)
        assert first.program.wait() == -signal.SIGKILL
        second = served(port)
        assert b" 200 " in answer()
    assert second.program.finish() == 0


#: Like many programs, it removes the file before it binds.
PLAIN = """
import os, socket, sys
path = sys.argv[1]
if os.path.exists(path):
    os.unlink(path)
sock = socket.socket(socket.AF_UNIX)
sock.bind(path)
sock.listen()
while True:
    client, _ = sock.accept()
    client.recv(100)
    client.sendall(b"%d\\n" % os.getpid())
    client.close()
"""
#: asyncio removes it too, and again at the end.
ASYNCIO = ANSWER.replace('start_server(answer, "127.0.0.1", 0)', "start_unix_server(answer, sys.argv[1])")


@pytest.mark.parametrize(
    "source",
    [PLAIN, pytest.param(f"{ASYNCIO}\nasyncio.run(main())", marks=pytest.mark.ci_only)],
    ids=["plain", "asyncio"],
)
def test_a_program_on_a_unix_socket(manager, start_command, tmp_path, source):
    path = str(tmp_path / "s")
    (tmp_path / "server.py").write_text(source)
    argv = run_command("server.py", path, workers=1, options=["--control", "off"])
    program = manager.start(start_command, argv)
    manager.wait_told("READY=1")
    assert ask(path)
    assert program.finish() == 0
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(path)
        early.settimeout(scaled(20))
        early.sendall(b"hello\n")
        program = manager.start(start_command, argv)
        manager.wait_told("READY=1")
        assert early.recv(100)
    assert program.finish() == 0
    names = sorted(name for name in os.listdir(tmp_path) if name.startswith((".everycore", "s")))
    assert names == [f".everycore-{program.pid}-{os.stat(path).st_ino}", "s", "server.py"]


def test_a_program_that_binds_what_systemd_has_opened(start_command, tmp_path):
    (tmp_path / "server.py").write_text(
        textwrap.dedent(ANSWER).replace('"127.0.0.1", 0', '"127.0.0.1", int(sys.argv[1])')
        + "\nasyncio.run(main())\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with FakeSystemd(tmp_path, sockets=[("web.socket", sock)]) as manager:
            argv = run_command("server.py", str(port), workers=2, options=["--control", "off"])
            program = manager.start(start_command, argv)
            program.expect("ready: all 2", stream="stderr")
            assert len({ask(port) for _ in range(4)}) == 2
            assert program.finish() == 0
        socket.create_connection(("127.0.0.1", port)).close()  # systemd has it, and it listens


@pytest.mark.ci_only
def test_a_service_that_cannot_start_leaves_the_listener_to_the_next_one(
    manager, served, start_command, tmp_path
):
    """A release is broken, and then fixed: clients that have come meanwhile are served."""
    port = free_port()
    assert served(port).program.finish() == 0
    (tmp_path / "main.py").write_text("1 / 0\n")
    argv = [sys.executable, "-P", "-m", "everycore", "serve", "--workers", "1", "--control", "off"]
    with waiting_request(port, REQUEST) as answer:
        broken = manager.start(start_command, [*argv, "--bind", f"127.0.0.1:{port}", "main:app"])
        assert broken.wait() == 3
        (tmp_path / "main.py").write_text(APP)
        mended = served(port)
        assert b" 200 " in answer()
    assert mended.program.finish() == 0
