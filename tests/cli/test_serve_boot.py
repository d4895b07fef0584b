"""Applications that cannot start: one exit status, one sentence or one traceback, however many workers."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.kit.serving import APP, command, complaint

pytestmark = pytest.mark.slow

WORKERS = ("--workers", "3")


@pytest.mark.parametrize(
    ("app", "source", "sentence"),
    [
        ("nosuch:app", "", "everycore: there is no module 'nosuch' in {folder} or on sys.path"),
        ("main:apq", "app = print", "everycore: main has no attribute 'apq'; did you mean 'app'?"),
        ("main:app", "app = 7", "everycore: main:app is not callable: its type is int"),
        ("main:app", "def app(*args): ...", "everycore: cannot tell whether the application is ASGI or WSGI"),
    ],
)
def test_one_sentence(start, app, source, sentence, tmp_path):
    program = start(*WORKERS, app=app, source=source)
    assert program.wait() == 3
    [line] = complaint(program)
    assert line.startswith(sentence.format(folder=tmp_path))


@pytest.mark.parametrize(
    "source",
    ["import main2", "1 / 0", "raise SystemExit(7)", "def app(:"],
    ids=["import", "error", "exit", "syntax"],
)
def test_one_traceback(start, source, tmp_path):
    program = start(*WORKERS, source=source)
    assert program.wait() == 3
    first, *rest = complaint(program)
    assert first == "everycore: cannot start main:app:"
    text = "\n".join(rest)
    assert text.count('main.py", line 1') == 1
    assert "everycore" not in text.replace(str(tmp_path), "")


def test_failed_lifespan(start):
    source = """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "Traceback\\nno database"})
            raise RuntimeError
    """
    program = start(*WORKERS, source=source)
    assert program.wait() == 3
    assert complaint(program) == ["everycore: cannot start main:app:", "Traceback", "no database"]


def test_worker_that_dies_while_booting(start):
    program = start(*WORKERS, source="import os\nos.kill(os.getpid(), 9)")
    assert program.wait() == 3
    [line] = complaint(program)
    assert line.endswith("ended before it was ready: killed by SIGKILL")


def test_worker_that_hangs_while_booting(start):
    program = start(*WORKERS, "--boot-timeout", "0.5", source="import signal\nsignal.pause()")
    assert program.wait() == 3
    [line] = complaint(program)
    assert line.endswith("was not ready within 0.5 s, and was killed")


def test_failure_later_is_told_and_retried(serve, tmp_path):
    source = f"import os\nif os.path.exists('broken'): raise RuntimeError('no database')\n{APP}"
    served = serve(source=source)
    (tmp_path / "broken").touch()
    os.kill(served.program.descendants()[0], 9)
    served.program.expect(r"worker 3 could not start the application: Traceback", stream="stderr")
    served.program.expect(r"RuntimeError: no database", stream="stderr")
    served.program.expect(
        r"worker 4 could not start the application: for the same reason as before", stream="stderr"
    )
    (tmp_path / "broken").unlink()
    while not {served.get() for _ in range(2)} - {"1", "2"}:
        pass
    assert served.program.finish() == 0


# Addresses that cannot be bound: status 1


def test_port_in_use(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(*WORKERS, "--bind", f"127.0.0.1:{port}")
        assert program.wait() == 1
    assert complaint(program) == [f"everycore: cannot listen on 127.0.0.1:{port}: address already in use"]


def test_port_that_was_asked_for_by_two_names(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = start(*WORKERS, "--bind", f"127.0.0.1:{port}", "--bind", f"localhost:{port}")
    assert program.wait() == 1
    assert complaint(program) == [f"everycore: cannot listen on localhost:{port}: address already in use"]


def test_address_of_another_machine(start):
    program = start(*WORKERS, "--bind", "192.0.2.1:0")
    assert program.wait() == 1
    assert complaint(program) == ["everycore: cannot listen on 192.0.2.1:0: cannot assign requested address"]


def test_name_that_resolves_to_nothing(start):
    program = start(*WORKERS, "--bind", "nosuch.invalid:0")
    assert program.wait() == 1
    [line] = complaint(program)
    assert line.startswith("everycore: cannot listen on nosuch.invalid:0: ")


def test_descriptor_that_is_not_open(start):
    program = start(*WORKERS, "--bind", "fd://999")
    assert program.wait() == 1
    assert complaint(program) == ["everycore: cannot listen on fd://999: it is not open in the primary"]


def test_privileged_port(start_program, tmp_path):
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 2:
        pytest.skip("this system has no privileged ports")
    # Even root loses the right with the capability (prctl(2), PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE).
    source = """
        import ctypes, os, sys
        if os.geteuid() == 0:
            assert ctypes.CDLL(None).prctl(24, 10, 0, 0, 0) == 0
        os.execv(sys.argv[1], sys.argv[1:])
    """
    (tmp_path / "main.py").write_text(APP)
    argv = command(*WORKERS)
    argv[argv.index("127.0.0.1:0")] = "127.0.0.1:1"
    program = start_program(source, *argv)
    assert program.wait() == 1
    text = os.strerror(errno.EACCES).lower()
    assert complaint(program) == [f"everycore: cannot listen on 127.0.0.1:1: {text}"]


def test_served_by_hand_without_a_primary(start_command, tmp_path):
    # As on a system without clusters: the worker's program runs in one process, which reports by itself.
    job = '{"app": "nosuch:app", "binds": ["127.0.0.1:0"]}'
    program = start_command([sys.executable, "-m", "everycore.servers", job])
    assert program.wait() == 3
    assert complaint(program) == [f"everycore: there is no module 'nosuch' in {tmp_path} or on sys.path"]
