"""`--reload`: files change under `serve` and `run`, and real clients see the result."""

import os
import signal
import socket
import time

import pytest

from tests.kit import scaled
from tests.kit.running import ANSWER, ask
from tests.kit.running import command as run_command
from tests.kit.serving import Served, command, wait_serving

#: Answers with a word; /stream never ends.
APP = """
import asyncio, os
from word import WORD

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"shut down\\n")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = scope["path"] == "/stream"
    await send({"type": "http.response.body", "body": WORD.encode(), "more_body": more})
    if more:
        await asyncio.Event().wait()
"""


@pytest.fixture
def develop(start_command, tmp_path):
    """Start `everycore serve --reload`, without waiting."""
    (tmp_path / "main.py").write_text(APP)

    def start_it(word: str, *options: str, env=None):
        change(tmp_path, word)
        return start_command(command("--reload", *options), env=env)

    return start_it


def change(folder, text: str) -> None:
    """Save as an editor does: the new file replaces the old one."""
    (folder / "word.py.new").write_text(text)
    (folder / "word.py.new").replace(folder / "word.py")


def is_new(program, number: int) -> None:
    program.expect(rf"reload {number}: all workers are new", stream="stderr")


def open_stream(served: Served) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", served.port), timeout=scaled(20))
    sock.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    while not sock.recv(4096).endswith(b"one\r\n"):
        pass
    return sock


@pytest.mark.ci_only
@pytest.mark.slow
@pytest.mark.limit(120)
def test_a_change_a_broken_one_and_its_repair(develop, tmp_path):
    served = wait_serving(develop("WORD = 'one'"))
    program = served.program
    assert served.get() == "one"
    stream = open_stream(served)
    change(tmp_path, "WORD = 'two'")
    program.expect(r"changed: word\.py; reloading", stream="stderr")
    is_new(program, 1)
    assert served.get() == "two"
    change(tmp_path, "WORD = = 'three'")
    program.expect("SyntaxError", stream="stderr")
    program.expect(
        "reload 2 failed: .*exit status 3; the last good code keeps serving; waiting for changes",
        stream="stderr",
    )
    assert served.get() == "two"
    assert program.stderr.count("Traceback") == program.stderr.count("SyntaxError") == 1
    # The stream kept the first worker for a while, which holds nothing up.
    change(tmp_path, "WORD = 'three'")
    is_new(program, 3)
    assert served.get() == "three"
    (tmp_path / "everycore.toml").write_text("grace = 'long'")
    program.expect("changed: everycore.toml; reloading", stream="stderr")
    program.expect("the reload is refused, and nothing has changed: --grace", stream="stderr")
    (tmp_path / "everycore.toml").unlink()
    is_new(program, 4)
    program.signal(signal.SIGHUP)
    is_new(program, 5)
    stream.close()
    assert program.finish() == 0


@pytest.mark.ci_only
@pytest.mark.slow
def test_a_first_start_with_broken_code_waits(develop, tmp_path):
    program = develop("1 / 0", "--reload-include", "*.txt")
    program.expect("ZeroDivisionError", stream="stderr")
    program.expect("ended before it was ready: exit status 3; waiting for changes", stream="stderr")
    assert program.descendants() == []
    (tmp_path / "note.txt").touch()
    program.expect(r"changed: note\.txt; reloading", stream="stderr")
    program.expect("could not start the application: for the same reason as before", stream="stderr")
    program.expect("reload 1 failed: .*exit status 3; waiting for changes", stream="stderr")
    change(tmp_path, "WORD = 'one'")
    served = wait_serving(program)
    assert served.get() == "one"
    assert program.stderr.count("Traceback") == 1
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    assert program.stdout == "shut down\n"


@pytest.mark.slow
def test_ctrl_c_waits_for_no_client(develop):
    served = wait_serving(develop("WORD = 'one'", "--stop-delay", "30"))
    idle = served.connect()
    idle.request("GET", "/")
    assert idle.getresponse().read() == b"one"
    silent = socket.create_connection(("127.0.0.1", served.port))
    stream = open_stream(served)
    begun = time.monotonic()
    served.program.signal_group(signal.SIGINT)
    status = served.program.wait()
    assert time.monotonic() - begun < scaled(1.0)
    assert status == 0
    assert "shut down" in served.program.stdout
    for one in (idle, silent, stream):
        one.close()


PROGRAM = ANSWER.replace('b"%d\\n" % os.getpid()', "WORD") + "\nasyncio.run(main())\n"


@pytest.mark.slow
@pytest.mark.limit(120)
def test_a_program_under_run(start_command, tmp_path):
    """The log is in a separate folder, and writing to it does not count."""
    folder = tmp_path / "src"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = folder / "server.py"
    path.write_text(f"WORD = b'one'\n{PROGRAM}")
    argv = run_command("../src/server.py", workers=2, options=["--reload"])
    program = start_command(argv, cwd=tmp_path / "elsewhere")
    program.expect(r"starting 2 workers \(--workers\)", stream="stderr")
    port = int(program.expect(r"listens on tcp://127\.0\.0\.1:(\d+)", stream="stderr")[1])
    program.expect("ready: all 2 workers", stream="stderr")
    assert ask(port) == "one"
    path.write_text("import no_such_module")
    program.expect("ModuleNotFoundError", stream="stderr")
    program.expect("the last good code keeps serving; waiting for changes", stream="stderr")
    assert ask(port) == "one"
    path.write_text("print('done')")  # it ends with status 0, and has not listened
    program.expect("the last good code keeps serving; waiting for changes", stream="stderr")
    path.write_text(f"WORD = b'two'\n{PROGRAM}")
    is_new(program, 3)
    assert {ask(port) for _ in range(4)} == {"two"}
    with socket.create_connection(("127.0.0.1", port)):
        program.signal(signal.SIGINT)
        assert program.wait() == 0


@pytest.mark.slow
@pytest.mark.ci_only
def test_without_watches_files_are_looked_at(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "one" / "two").mkdir(parents=True)
    change(tmp_path, "WORD = 'one'")
    few = 'echo 1 > /proc/sys/user/max_inotify_watches && exec "$@"'
    if os.system(f"unshare -Ur sh -c '{few}' sh true 2>/dev/null") != 0:
        pytest.skip("no user namespaces here")
    program = start_command(["unshare", "-Ur", "sh", "-c", few, "sh", *command("--reload")])
    program.expect("the kernel watches no more files .*limit.*: polling all of them", stream="stderr")
    served = wait_serving(program)
    change(tmp_path, "WORD = 'two'")
    is_new(program, 1)
    assert served.get() == "two"
    assert program.finish() == 0
