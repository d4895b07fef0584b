"""A stuck worker, with real processes: its stacks are in the log, it is replaced, others serve."""

import contextlib
import re
import signal
import socket

import pytest

from everycore.cli.main import main
from tests.kit import scaled
from tests.kit.running import run

#: Each path blocks the worker in another way.
STUCK = """
import os, signal, threading, time
import everycore

held = threading.Lock()

def in_python():
    while True:
        pass

def in_c_with_the_gil():
    sum(range(10**15))

def in_c_without_the_gil():
    time.sleep(3600)

def by_a_lock():
    threading.Thread(target=lambda: (held.acquire(), threading.Event().wait()), daemon=True).start()
    while not held.locked():
        pass
    held.acquire()

def by_a_signal():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0)
    while True:
        pass

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    name = scope["path"].strip("/")
    if name:
        os.write(1, b"%d %s\\n" % (everycore.current_worker().id, name.encode()))
        globals()[name]()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
WAYS = ("in_python", "in_c_with_the_gil", "in_c_without_the_gil", "by_a_lock", "by_a_signal")


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.parametrize(
    ("policy", "ways"),
    [
        ("round_robin", ("in_c_with_the_gil", "by_a_signal")),
        pytest.param("round_robin", WAYS, marks=pytest.mark.ci_only),
        pytest.param("shared", WAYS, marks=pytest.mark.ci_only),
    ],
)
def test_each_kind_is_dumped_and_replaced_while_others_serve(serve, policy, ways):
    limits = ("--stall-dump", "0.5", "--timeout", "1.5")
    served = serve(*limits, "--policy", policy, source=STUCK, workers=len(ways) + 1)
    program = served.program
    stuck: dict[str, int] = {}
    with contextlib.ExitStack() as clients:
        for way in ways:
            sock = clients.enter_context(socket.create_connection(("127.0.0.1", served.port), scaled(20)))
            sock.sendall(f"GET /{way} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            stuck[way] = int(program.expect(rf"^(\d+) {way}")[1])
            assert served.get() == "ok"
        for _ in ways:
            program.expect(r"worker \d+ \(slot \d+, pid \d+\) is stuck: no progress for", stream="stderr")
            assert served.get() == "ok"
        for _ in ways:
            program.expect(r"worker \d+ \(slot \d+\) ended: stuck for", stream="stderr", timeout=40)
            assert served.get() == "ok"
    assert program.finish(timeout=40) == 0
    log = program.stderr
    for way in ways:
        assert re.search(rf"worker {stuck[way]} \(.*is stuck: .*; it is aborted; ", log), way
        if way != "by_a_signal":
            assert log.count(f" in {way}\n") >= 2, way
    assert re.search(rf"worker {stuck['by_a_signal']} .*it is stopped \(SIGSTOP\)", log)


@pytest.mark.slow
def test_threads_of_a_wsgi_application_all_stuck(serve):
    source = """
        import os, threading

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/hang":
                os.write(1, b"hangs\\n")
                threading.Event().wait()
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
    """
    served = serve("--threads", "2", "--stall-dump", "1", source=source, workers=1)
    with contextlib.ExitStack() as clients:
        for _ in range(3):  # two being served, and one that waits
            sock = clients.enter_context(socket.create_connection(("127.0.0.1", served.port), scaled(20)))
            sock.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        served.program.expect("is stuck: no progress", stream="stderr")
        served.program.expect(r"line \d+ in app", stream="stderr")
        served.program.signal(signal.SIGQUIT)
        served.program.wait()


@pytest.mark.ci_only
@pytest.mark.slow
def test_a_program_that_picks_up_nothing(start_command, tmp_path):
    """Threads and plain sockets under `everycore run`: there is no loop to watch."""
    source = """
        import os, socket, time

        listener = socket.create_server(("127.0.0.1", 0))
        while True:
            connection, _ = listener.accept()
            with connection:
                if connection.recv(100) == b"hang\\n":
                    os.write(1, b"hangs\\n")
                    while True:
                        time.sleep(1)
                connection.sendall(b"%d\\n" % os.getpid())
    """
    running = run(start_command, tmp_path, source, options=("--stall-dump", "1", "--stall-kill", "2"))
    port = running.port()
    with contextlib.ExitStack() as clients:
        first = clients.enter_context(socket.create_connection(("127.0.0.1", port), scaled(20)))
        first.sendall(b"hang\n")
        running.program.expect("hangs")
        for _ in range(3):  # it gets another one, which the other worker serves in the end
            with socket.create_connection(("127.0.0.1", port), scaled(20)) as sock:
                sock.sendall(b"x\n")
                assert sock.recv(100)
        running.program.expect("is stuck: no progress", stream="stderr")
        running.program.expect("ended: stuck for", stream="stderr")
    assert running.program.finish() == 0


@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_limit_that_no_healthy_worker_could_hold_is_refused(command, no_foreign_settings, capsys):
    program = {"serve": "main:app", "run": __file__}[command]
    assert main([command, "--stall-kill", "0.1", program]) == 2
    told = capsys.readouterr().err
    assert "--stall-kill: must be 0, for never, or at least 0.5 seconds, not 0.1" in told
