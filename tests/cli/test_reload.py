"""Rolling reload of `serve` and `run`: by HUP, with broken code, from another release.

Under load: test_under_load.
"""

import contextlib
import os
import pty
import signal
import socket
import sys

import pytest

from tests.kit.processes import wait_gone
from tests.kit.running import ANSWER, ask, run
from tests.kit.running import command as run_command
from tests.kit.serving import command

pytestmark = pytest.mark.slow

#: Each worker answers with its generation, as its environment has it.
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = os.environ["EVERYCORE_GENERATION"].encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
PROGRAM = ANSWER.replace('b"%d\\n" % os.getpid()', 'os.environ["EVERYCORE_GENERATION"].encode() + b"\\n"')

HTTP = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LINE = b"hello\n"


def reload(program, number: int) -> None:
    program.signal(signal.SIGHUP)
    program.expect(rf"reload {number}: all workers are new", stream="stderr")


both_policies = pytest.mark.parametrize("policy", ["round_robin", "shared"])
both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def has_heard(pid: int) -> bool:
    """Whether a worker has handled SIGTERM: a thread waits for the end of its work, or the worker is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except FileNotFoundError:
        return True


@both_policies
@both_loops
def test_a_program_that_leaves_accepts_no_connection_while_it_finishes(start_command, tmp_path, policy, loop):
    options = ["--policy", policy, "--loop", loop]
    running = run(start_command, tmp_path, PROGRAM + "\nasyncio.run(main())\n", options=options)
    port = running.port()
    with contextlib.ExitStack() as stack:

        def hold(count: int) -> list[socket.socket]:
            return [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]

        before = hold(4)
        old = running.program.descendants()
        reload(running.program, 1)
        while not all(has_heard(pid) for pid in old):
            ask(port)
        after = hold(60)  # if all four workers had a share, each would have sixteen
        for sock in before + after:
            sock.sendall(LINE)
        assert [sock.recv(100) for sock in before] == [b"0\n"] * 4
        # Some may have been under way to an old worker at that time.
        assert [sock.recv(100) for sock in after].count(b"0\n") <= 8
    assert running.program.finish() == 0


# Code that cannot boot


def test_broken_application_leaves_the_old_workers_and_is_told_once(serve, tmp_path):
    served = serve(source=APP)
    program = served.program
    (tmp_path / "main.py").write_text("1 / 0")
    program.signal(signal.SIGHUP)
    program.expect("could not start the application", stream="stderr")
    program.expect("reload 1 failed: worker 3 ended before it was ready: exit status 3;", stream="stderr")
    assert {served.get() for _ in range(4)} == {"0"}
    assert program.stderr.count("ZeroDivisionError") == 1
    assert len(program.descendants()) == 2


def test_worker_that_dies_after_a_failed_reload_is_started_from_what_is_there(serve, tmp_path):
    served = serve(source=APP, workers=1)
    program = served.program
    (tmp_path / "main.py").write_text("1 / 0")
    program.signal(signal.SIGHUP)
    program.expect("reload 1 failed", stream="stderr")
    [worker] = program.descendants()
    (tmp_path / "main.py").write_text(APP)
    os.kill(worker, signal.SIGKILL)
    program.expect(
        r"filled again in .* s, with the code that is there now \(reload 1 failed\)", stream="stderr"
    )
    assert served.get() == "1"  # it waits for the new one
    reload(program, 2)
    assert program.finish() == 0


def test_broken_program_leaves_the_old_workers(start_command, tmp_path):
    running = run(start_command, tmp_path, ANSWER + "\nasyncio.run(main())\n")
    port = running.port()
    before = running.everybody_answers(port)
    (tmp_path / "server.py").write_text("import no_such_module")
    running.program.signal(signal.SIGHUP)
    running.program.expect(
        "reload 1 failed: worker 3 ended before it was ready: exit status 1", stream="stderr"
    )
    assert running.everybody_answers(port) == before
    assert running.program.stderr.count("ModuleNotFoundError") == 1
    assert running.program.finish() == 0


def test_stopped_while_a_new_worker_boots(serve, tmp_path):
    program = serve("--grace", "1", source=APP).program
    (tmp_path / "main.py").write_text("import os, signal\nos.write(1, b'booting\\n')\nsignal.pause()")
    program.signal(signal.SIGHUP)
    program.expect("booting")
    assert program.finish() == 0
    assert "failed" not in program.stderr


# Stop first


def test_with_a_surge_of_nothing_a_slot_has_one_worker_at_a_time(start_command, tmp_path):
    source = """
        import fcntl
        owned = open("owner of slot " + os.environ["EVERYCORE_SLOT"], "w")
        fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
    """
    program = ANSWER + "\n".join(line.strip() for line in source.splitlines()) + "\nasyncio.run(main())\n"
    running = run(start_command, tmp_path, program, options=["--surge", "0"])
    port = running.port()
    old = running.program.descendants()
    reload(running.program, 1)
    assert wait_gone(old, 0) == []
    running.everybody_answers(port)
    assert running.program.finish() == 0


# Releases


@pytest.mark.parametrize("kind", ["serve", "run"])
def test_new_workers_start_from_where_the_path_leads_now(start_command, tmp_path, kind):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = APP if kind == "serve" else PROGRAM + "\nasyncio.run(main())\n"
        text = text.replace('os.environ["EVERYCORE_GENERATION"]', repr(name))
        (tmp_path / name / "main.py").write_text(text)
    current = tmp_path / "current"
    current.symlink_to("one")
    argv = command("--workers", "1") if kind == "serve" else run_command("main.py", workers=1)
    program = start_command(argv, cwd=current, env={"PWD": str(current)})
    port = int(program.expect(r"(?:serving .*|listens) on \w+://127\.0\.0\.1:(\d+)", stream="stderr")[1])
    program.expect("ready: all", stream="stderr")
    request = HTTP.decode() if kind == "serve" else "hello"
    assert ask(port, request=request).endswith("one")
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(current)
    [old] = program.descendants()
    reload(program, 1)
    assert wait_gone([old]) == []
    assert ask(port, request=request).endswith("two")


# Signals


def test_one_more_and_one_fewer(serve):
    program = serve(workers=1, source=APP).program
    program.signal(signal.SIGTTOU)
    program.expect("SIGTTOU: ignored, a pool keeps at least one worker", stream="stderr")
    program.signal(signal.SIGTTIN)
    program.expect("SIGTTIN: scaling from 1 to 2", stream="stderr")
    program.signal(signal.SIGTTOU)
    program.expect("SIGTTOU: scaling from 2 to 1", stream="stderr")
    assert program.finish() == 0


def test_hang_up_that_was_ignored_at_the_start_stays_ignored(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    program = start_command(["nohup", *command("--workers", "1")])
    program.expect("ready: all", stream="stderr")
    program.signal(signal.SIGHUP)
    program.signal(signal.SIGTTIN)
    program.expect("SIGTTIN", stream="stderr")
    assert "reload" not in program.stderr
    assert program.finish() == 0


#: Runs a command line with the controlling terminal of that name.
ON_A_TERMINAL = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"


def test_hang_up_is_a_reload_at_a_terminal_and_the_end_when_that_is_gone(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    ours, theirs = pty.openpty()
    try:
        argv = [sys.executable, "-c", ON_A_TERMINAL, os.ttyname(theirs), *command("--workers", "1")]
        program = start_command(argv)
        program.expect("ready: all", stream="stderr")
        reload(program, 1)
    finally:
        os.close(theirs)
        os.close(ours)  # the kernel sends SIGHUP
    program.expect("SIGHUP: the terminal is gone; stopping", stream="stderr")
    assert program.wait() == 0
