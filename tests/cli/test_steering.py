"""`everycore status` and similar commands, as typed: with real services, and errors without one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import everycore.control
from everycore.cli import steering
from everycore.cli.main import main
from tests.kit import scaled
from tests.kit.running import ANSWER, run

#: An application that a request for /block blocks until SIGKILL.
BLOCKS = """
import os, signal

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    os.write(1, b"blocked\\n")
    while True:
        signal.pause()
"""


def type_(program, *words, **rest):
    """Run a command about the service `program`."""
    typed = [sys.executable, "-P", "-m", "everycore", *words, "--pid", str(program.pid)]
    limit = scaled(60)
    return subprocess.run(typed, capture_output=True, text=True, timeout=limit, check=False, **rest)


@pytest.mark.slow
@pytest.mark.limit(90)
def test_it_is_seen_while_all_workers_are_blocked(serve):
    served = serve("--name", "the shop", "--grace", "1", source=BLOCKS)
    program, blocked = served.program, []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = served.connect()
            stack.callback(connection.close)
            connection.request("GET", "/block")
            blocked.append(program.expect("blocked"))
        with everycore.control.connect("the shop", pid=program.pid) as service:
            times, status = [], service.status()
            for _ in range(10):
                begun = time.monotonic()
                status = service.status()
                times.append(time.monotonic() - begun)
        assert min(times) < scaled(0.1), times
        assert [worker.open for worker in status.workers] == [1, 1]
        assert [worker.handed_over for worker in status.workers] == [1, 1]
        assert all(worker.rss is not None and worker.rss > 1 << 20 for worker in status.workers)
        shown = type_(program, "status")
        assert shown.returncode == 0, shown.stderr
        head = rf"the shop \(serve, pid {program.pid}, everycore .*\): running, for \d+ s"
        assert re.fullmatch(head, shown.stdout.splitlines()[0])
        assert shown.stdout.count("  ready ") == 2
        assert json.loads(type_(program, "status", "--json").stdout)["size"] == 2
        events = type_(program, "events", "--json").stdout.splitlines()
        assert [json.loads(line)["event"] for line in events].count("ready") == 2
        printed = type_(program, "stacks", "1")
        assert re.search(r"^worker 1 \(pid \d+\) is printing its stacks to ", printed.stdout)
        program.expect(r"main\.py\", line \d+ in app", stream="stderr")  # that of signal.pause()
        assert printed.returncode == 0
        stopped = type_(program, "stop")
        assert (stopped.returncode, program.wait()) == (0, 0)
        assert f"the shop (pid {program.pid}) has stopped" in stopped.stdout
        assert "control: stopping" in program.stderr
        assert type_(program, "stop").returncode == 2


@pytest.mark.slow
@pytest.mark.limit(120)
def test_it_is_steered(start_command, tmp_path):
    path = tmp_path / "control.sock"
    running = run(
        start_command, tmp_path, ANSWER + "\nasyncio.run(main())\n", options=["--control", str(path)]
    )
    running.port()
    program = running.program
    environ = {**os.environ, "EVERYCORE_CONTROL": str(path)}

    def type_it(*words):
        return type_(program, *words, env=environ)

    with everycore.control.connect(path=path) as service:
        scaled_ = type_it("scale", "+1")
        assert scaled_.stdout == "scaled from 2 to 3 workers\n"
        assert re.search(r"^everycore: worker 3 \(slot 2, pid \d+\) is ready$", scaled_.stderr, re.MULTILINE)
        assert type_it("scale", "-1").stdout == "scaled from 3 to 2 workers\n"
        reloaded = type_it("reload")
        assert (reloaded.stdout, reloaded.returncode) == ("reload 1 is done: all workers are new\n", 0)
        first = service.status().workers[0].id
        drained = type_it("drain", str(first))
        assert (drained.stdout, drained.returncode) == (f"worker {first} has left: exit status 0\n", 0)
        assert type_it("drain", str(first)).returncode == 2
        (tmp_path / "server.py").write_text("raise SystemExit(5)")
        failed = type_it("reload")
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1].endswith("ended before it was ready: exit status 5")
        reload = service.status().reload
        assert reload is not None
        assert reload.state == "failed"
    assert program.finish() == 0
    assert not path.exists()


@pytest.mark.slow
def test_its_events_are_followed_to_its_end(serve, start_command):
    served = serve(workers=1)
    with everycore.control.connect(pid=served.program.pid) as service:
        service.stacks()
        # Its loop waits in C, so that its stack says nothing of what the application does.
        served.program.expect(r"1 task waits in the event loop of pid \d+ ", stream="stderr")
        served.program.expect(r"main\.py\", line \d+ in app", stream="stderr")  # waits for its shutdown
    words = [sys.executable, "-P", "-m", "everycore", "events", "-f", "--pid", str(served.program.pid)]
    follower = start_command(words)
    follower.expect(r"worker 1 \(slot 0, pid \d+\) is ready$")
    os.kill(served.program.descendants()[0], signal.SIGKILL)
    follower.expect(r"worker 1 \(slot 0, pid \d+\) ended: killed by SIGKILL$")
    follower.expect("worker 2 .* is ready")
    assert served.program.finish() == 0
    assert follower.wait() == 0


@pytest.mark.slow
def test_off_is_off(serve):
    program = serve("--control", "off", workers=1).program
    assert type_(program, "status").returncode == 2
    assert program.finish() == 0


@pytest.mark.slow
def test_a_stop_delay_holds_for_a_stop_that_is_typed(serve):
    served = serve("--stop-delay", "0.5", workers=1)
    assert type_(served.program, "stop").returncode == 0
    assert "stopping in 0.5 s (--stop-delay), and serving until then" in served.program.stderr
    assert served.program.wait() == 0


# Without a service

pure = pytest.mark.usefixtures("no_foreign_settings")


@pytest.fixture
def nobody(monkeypatch):
    """No service runs."""
    monkeypatch.setattr(everycore.control, "candidates", lambda _: [])


@pure
@pytest.mark.parametrize(
    "words", [["status"], ["events"], ["reload"], ["scale", "2"], ["drain", "1"], ["stop"], ["stacks"]]
)
def test_no_service_is_one_sentence(words, nobody, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"everycore: no service of uid \d+ answers here \(in .*\)\n", printed.err)


@pure
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["scale"], "scale: needs a number of workers: N, +N or -N, not ''"),
        (["scale", "two"], "scale: needs a number of workers: N, +N or -N, not 'two'"),
        (["scale", "--3"], "scale: needs a number of workers: N, +N or -N, not '--3'"),
        (["scale", "1" * 20], "scale: needs a number of workers"),
        (["drain"], "Missing argument 'ID'"),
        (["drain", "abc"], "must be the id of a worker, as everycore status shows it, not 'abc'"),
        (["drain", "0"], "must be the id of a worker"),
        (["stacks", "x"], "must be the id of a worker"),
        (["reload", "--timeout", "0"], "--timeout': must be at least 0.001 seconds"),
        (["reload", "--timeout", "nan"], "--timeout': must be"),
        (["status", "--control", "off"], "--control: needs a path here"),
        (["status", "--control", "/nowhere/x"], "no service listens at '/nowhere/x'"),
        (["stop", "--pid", "0"], "Invalid value for '--pid'"),
    ],
)
def test_what_is_typed_wrongly(words, told, nobody, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pure
def test_ctrl_c_while_waiting_takes_nothing_back(monkeypatch, capsys):
    class Waiting(contextlib.nullcontext[None]):
        def reload(self, **_):
            raise KeyboardInterrupt

        def __enter__(self):
            return self

    monkeypatch.setattr(steering, "connect", lambda *_, **__: Waiting())
    assert main(["reload"]) == 1
    assert capsys.readouterr().err == "everycore: stopped waiting; the service still carries out the order\n"


@pure
@pytest.mark.parametrize("words", [["serve", "main:app"], ["run", "program.py"]])
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("missing/x", "there is no folder"),
        ("program.py", "a file of that name exists, and is not a socket"),
    ],
)
def test_a_path_that_cannot_be_is_wrong_before_anything_starts(words, path, told, tmp_path, capsys):
    (tmp_path / "program.py").touch()
    command, program = words
    assert main([command, "--control", path, program]) == 2
    assert f"everycore: --control: cannot make {path!r}: {told}" in capsys.readouterr().err
