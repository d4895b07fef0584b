"""How programs under `everycore run` end: tracebacks, exit statuses, and which are replaced."""

import socket

import pytest

from tests.kit.running import ANSWER, alone, ask, command, run
from tests.kit.serving import complaint

# How programs end

TRACEBACKS = {
    "raises": "def f():\n    raise ValueError('boom')\nf()",
    "syntax": "x = (",
    "import": "import no_such_module",
    # To suggest a name, Python 3.15 imports the package again while it prints, which raises again.
    "submodule": "import server.x",
    "chain": "try:\n    1 / 0\nexcept Exception as e:\n    raise RuntimeError from e",
    "group": "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
    "asyncio": "import asyncio\nasync def main():\n    raise OSError(2, 'x')\nasyncio.run(main())",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", TRACEBACKS)
def test_a_traceback_is_pythons_and_printed_once(start_command, tmp_path, how):
    running = run(start_command, tmp_path, TRACEBACKS[how], options=["--log-level", "error"])
    status, _, expected = alone(tmp_path, "server.py")
    assert status == 1
    assert running.program.wait() == 3
    assert running.program.stderr == f"everycore: cannot start server.py:\n{expected}"


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "broken"], ["folder"]], ids=" ".join)
def test_a_traceback_of_a_module(start_command, tmp_path, program):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "broken.py", tmp_path / "folder" / "__main__.py"):
        path.write_text("def f():\n    1 / 0\nf()\n")
    _, _, expected = alone(tmp_path, *program)
    started = start_command(command(*program, options=["--log-level", "error"]), cwd=tmp_path)
    assert started.wait() == 3
    assert started.stderr == f"everycore: cannot start {program[-1]}:\n{expected}"


@pytest.mark.slow
def test_an_exception_hook_of_the_programs_own_is_called(start_command, tmp_path):
    source = """
        import sys, traceback
        def hook(kind, value, trace):
            print("hook", kind.__name__, [frame.name for frame in traceback.extract_tb(trace)], flush=True)
        sys.excepthook = hook
        def f():
            raise KeyError
        f()
    """
    running = run(start_command, tmp_path, source, workers=1)
    assert running.program.wait() == 3
    assert running.program.stdout == "hook KeyError ['<module>', 'f']\n"


@pytest.mark.slow
def test_a_traceback_after_it_has_listened_is_the_workers_own(start_command, tmp_path):
    source = """
        import socket
        sock = socket.create_server(("127.0.0.1", 0))
        sock.accept()
        raise ValueError("boom")
    """
    running = run(start_command, tmp_path, source, workers=1)
    socket.create_connection(("127.0.0.1", running.port())).close()
    running.program.expect(r"ValueError: boom", stream="stderr")
    running.program.expect(r"worker 1 .* ended: exit status 1", stream="stderr")
    assert running.program.finish() == 0
    own = running.program.stderr
    assert own.count("Traceback") == 1
    assert "everycore" not in own[own.index("Traceback") : own.index("ValueError: boom")]


ENDS = {
    "falls off the end": ("print('done')", 0, None),
    "exits with 0": ("import sys; sys.exit()", 0, None),
    "exits with a status": ("import sys; sys.exit(7)", 3, "ended before it was ready: exit status 7"),
    "exits with a text": ("import sys; sys.exit('sorry')", 3, "everycore: sorry"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", 3, "ended before it was ready: killed by SIGKILL"),
    "is interrupted": ("raise KeyboardInterrupt", 3, "ended before it was ready: killed by SIGINT"),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS, ids=[end.replace(" ", "_") for end in ENDS])
def test_a_program_that_ends_without_having_listened(start_command, tmp_path, end):
    source, status, sentence = ENDS[end]
    running = run(start_command, tmp_path, source)
    assert running.program.wait() == status
    if sentence is not None:
        assert complaint(running.program)[-1].endswith(sentence)


@pytest.mark.slow
def test_every_worker_of_a_job_finishes(start_command, tmp_path):
    source = """
        import atexit, os, threading
        atexit.register(lambda: os.write(1, b"atexit\\n"))
        threading.Thread(target=lambda: os.write(1, b"thread\\n")).start()
    """
    running = run(start_command, tmp_path, source, workers=3)
    assert running.program.wait() == 0
    assert sorted(running.program.stdout.split()) == ["atexit"] * 3 + ["thread"] * 3


@pytest.mark.slow
def test_a_program_need_not_listen(start_command, tmp_path):
    source = """
        import os, signal
        signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"stopping\\n"), os._exit(0)))
        os.write(1, b"working\\n")
        while True:
            signal.pause()
    """
    running = run(start_command, tmp_path, source)
    running.program.expect("working")
    running.program.expect("working")
    assert running.program.finish() == 0
    assert running.program.stdout.count("stopping") == 2


@pytest.mark.slow
def test_a_server_that_ends_is_replaced(start_command, tmp_path):
    source = """
        import socket
        sock = socket.create_server(("127.0.0.1", 0))
        conn, _ = sock.accept()
        conn.recv(10)
        conn.sendall(b"bye")
    """
    running = run(start_command, tmp_path, source, workers=1)
    port = running.port()
    for _ in range(2):
        assert ask(port) == "bye"
        running.program.expect(r"ended: exit status 0", stream="stderr")
    assert running.program.finish() == 0


HALF_MADE = (
    ANSWER
    + """
from asyncio import selector_events

make_self_pipe = selector_events.BaseSelectorEventLoop._make_self_pipe

def be_told_to_leave(loop):
    if os.environ["EVERYCORE_WORKER_ID"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    make_self_pipe(loop)

selector_events.BaseSelectorEventLoop._make_self_pipe = be_told_to_leave
asyncio.run(main())
"""
)


@pytest.mark.slow
def test_a_signal_while_the_loop_is_made_leaves_no_half_of_one(start_command, tmp_path):
    """After a SystemExit within the constructor, the incomplete loop complains when it is deleted."""
    running = run(start_command, tmp_path, HALF_MADE)
    assert ask(int(running.listens().rpartition(":")[2]))  # of the other worker
    assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr
    assert "Exception ignored" not in running.program.stderr
