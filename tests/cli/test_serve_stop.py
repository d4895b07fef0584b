"""How `everycore serve` ends: present work is finished, unless the grace or the patience is over first."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

from everycore.core.stopping import SAME_REQUEST
from tests.kit.folders import EXAMPLES
from tests.kit.serving import APP, command, finish, wait_serving

pytestmark = pytest.mark.slow


def beyond_one_request() -> None:
    """Wait until the same signal counts as another request."""
    threading.Event().wait(2 * SAME_REQUEST)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_at_hand_is_finished(serve, number):
    served = serve()
    request = served.begin()
    # As Ctrl-C at a terminal: to the whole group, which does not contain the workers.
    served.program.signal_group(number)
    served.program.expect(f"{signal.Signals(number).name}: finishing", stream="stderr")
    assert finish(request).endswith(b"\r\n\r\nok")
    assert served.program.wait() == 0
    assert sorted(served.program.stdout.splitlines()) == ["begun", "shut down 1", "shut down 2"]


def test_second_signal_ends_it_at_once(serve):
    served = serve()
    with served.begin() as request:
        served.program.signal()
        served.program.expect("finishing", stream="stderr")
        served.program.signal(signal.SIGINT)
        assert served.program.wait() == 1
        assert request.recv(1) == b""
    assert "second signal" in served.program.stderr.splitlines()[-1]


@pytest.mark.ci_only
def test_one_request_to_stop_that_is_delivered_twice_is_one(serve):
    """GNU timeout signals its child, and then the group that it is in."""
    served = serve()
    request = served.begin()
    served.program.signal()
    served.program.signal()
    served.program.expect("finishing", stream="stderr")
    served.program.signal()
    assert finish(request).endswith(b"\r\n\r\nok")
    assert served.program.wait() == 0


def test_grace_is_the_limit(serve):
    served = serve("--grace", "0.5")
    with served.begin():
        assert served.program.finish() == 0


def test_stop_while_booting(start):
    source = "import os, signal\nos.write(1, b'booting\\n')\nsignal.pause()"
    program = start("--workers", "2", "--grace", "3600", source=source)
    program.expect("booting")
    program.expect("booting")
    assert program.finish() == 0  # a worker that was never ready has nothing to finish


@pytest.mark.ci_only
def test_application_shut_down_after_its_last_request_even_if_that_was_cut_short(serve):
    served = serve("--grace", "2", workers=1)
    with served.begin():
        assert served.program.finish() == 0
    assert "shut down 1" in served.program.stdout


def test_websocket_is_told(serve):
    served = serve("--app-dir", str(EXAMPLES), "--spread", "0", app="websocket_echo:app")
    with connect_websocket(f"ws://127.0.0.1:{served.port}/") as websocket:
        served.program.signal()
        with pytest.raises(ConnectionClosed):
            websocket.recv()
        assert websocket.close_code == 1012  # service restart
    assert served.program.wait() == 0


def test_application_has_the_grace_for_its_own_shutdown(serve, tmp_path):
    # Longer than the primary waits for a worker that has nothing left to do.
    source = """
        import asyncio, os
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.sleep(2)
            os.write(1, b"done\\n")
            await send({"type": "lifespan.shutdown.complete"})
    """
    served = serve(source=source)
    assert served.program.finish() == 0
    assert served.program.stdout == "done\ndone\n"


#: Its shutdown waits for a time given in the environment.
SLOW_TO_END = """
    import asyncio, os

    async def flush():
        await asyncio.sleep(float(os.environ["SHUTDOWN"]))  # the books are written here

    async def app(scope, receive, send):
        if scope["type"] == "http":
            os.write(1, b"begun\\n")
            await asyncio.Event().wait()
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await flush()
        os.write(1, b"done\\n")
        await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.ci_only
def test_application_has_a_time_of_its_own_once_the_grace_is_over(serve):
    served = serve("--grace", "0.5", workers=1, source=SLOW_TO_END, env={"SHUTDOWN": "2"})
    with served.begin():  # a request that never ends
        assert served.program.finish() == 0
    assert served.program.stdout == "begun\ndone\n"


def test_what_an_application_has_written_is_flushed_as_python_does_at_its_end(start_command, tmp_path):
    text = "file = open('written', 'w')\nfile.write('all of it')\nasync def app(*_): ...\n"
    (tmp_path / "writes.py").write_text(text)
    program = start_command(command("--workers", "1", app="writes:app"), cwd=tmp_path)
    wait_serving(program)
    program.signal()
    assert program.wait() == 0
    assert (tmp_path / "written").read_text() == "all of it"


def test_a_command_does_not_take_itself_apart_when_it_ends(start_command):
    source = (
        "import gc, sys, everycore.__main__ as it; it.main(); print('kept', gc.get_freeze_count() > 10_000)"
    )
    program = start_command([sys.executable, "-c", source, "--version"])
    program.expect("^kept True$")
    assert program.wait() == 0


def test_an_application_that_is_cut_off_is_told_with_what_it_was_doing(serve):
    limits = ("--grace", "0.2", "--shutdown-timeout", "0.2")
    served = serve(*limits, workers=1, source=SLOW_TO_END, env={"SHUTDOWN": "3600"})
    assert served.program.finish() == 0
    assert "ERROR the application's shutdown was cut off: " in served.program.stderr
    assert "in flush" in served.program.stderr
    assert "# the books are written here" in served.program.stderr
    assert served.program.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_served_by_hand_without_a_primary(start_command, tmp_path, number):
    (tmp_path / "main.py").write_text("async def app(scope, receive, send):\n    raise RuntimeError")
    job = '{"app": "main:app", "binds": ["127.0.0.1:0"]}'
    program = start_command([sys.executable, "-m", "everycore.servers", job])
    program.expect("serving on", stream="stderr")
    program.signal(number)
    assert program.wait() == 0


def test_primary_killed_takes_its_workers_along(serve):
    served = serve(source=APP)
    served.program.signal(signal.SIGKILL)
    assert served.program.wait() == -signal.SIGKILL
    # Leaving the test fails if a worker is left.


@pytest.mark.ci_only
def test_a_second_sigterm_changes_nothing(serve):
    """Supervisors repeat the signal."""
    served = serve()
    request = served.begin()
    served.program.signal()
    served.program.expect("finishing", stream="stderr")
    for _ in range(3):
        beyond_one_request()
        served.program.signal()
    assert finish(request).endswith(b"\r\n\r\nok")
    assert served.program.wait() == 0


def test_a_second_ctrl_c_ends_it_at_once(serve):
    served = serve()
    with served.begin() as request:
        served.program.signal(signal.SIGINT)
        served.program.expect("finishing", stream="stderr")
        beyond_one_request()
        served.program.signal(signal.SIGINT)
        assert served.program.wait() == 1
        assert request.recv(1) == b""


BLOCKED = """
import os, time

async def app(scope, receive, send):
    if scope["type"] == "http":
        block()

def block():
    os.write(1, b"begun\\n")
    while True:
        time.sleep(1000)
"""


@pytest.mark.parametrize("before", [[], [signal.SIGTERM]], ids=["at first", "while it stops"])
def test_sigquit_ends_it_at_once_with_the_stacks_of_all_workers(serve, before):
    served = serve(source=BLOCKED)
    with served.begin(), served.begin():
        for number in before:
            served.program.signal(number)
            served.program.expect("finishing", stream="stderr")
        served.program.signal(signal.SIGQUIT)
        assert served.program.wait() == 1
    lines = served.program.stderr.splitlines()
    assert "SIGQUIT" in lines[-1]
    # Whole lines: workers print one after the other.
    assert sum(line.endswith(" in block") and line.startswith('  File "') for line in lines) == 2
    assert not any("replaced" in line or "filled again" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ignored_from_the_start_stays_ignored(start_command, tmp_path, number):
    """As HUP under nohup, in the primary and its workers."""
    (tmp_path / "main.py").write_text(APP)
    ignoring = ["sh", "-c", f"trap '' {number.name.removeprefix('SIG')}; exec \"$@\"", "sh"]
    served = wait_serving(start_command([*ignoring, *command("--workers", "1")]))
    served.program.signal(number)
    for pid in served.program.descendants():
        os.kill(pid, number)
    assert served.get() == "1"
    assert served.program.finish() == 0


FIRST_MOMENT = """
import os, signal, sys
import everycore.__main__ as command

class Finder:
    def find_spec(self, name, path, target=None):
        if name == WHERE:
            os.kill(os.getpid(), NUMBER)

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["serve", "--workers", "1", "main:app"]
sys.exit(command.main())
"""


@pytest.mark.parametrize("where", ["everycore.cli.main", "everycore.ops.service", "everycore.core.wire"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 0)])
def test_a_signal_in_the_first_moments(start_command, where, number, status):
    source = FIRST_MOMENT.replace("WHERE", repr(where)).replace("NUMBER", str(int(number)))
    program = start_command([sys.executable, "-c", source])
    assert program.wait() == status
    assert program.stdout == ""
    assert "Traceback" not in program.stderr


def test_there_is_little_before_the_first_moments():
    source = (
        "import sys, everycore.__main__; print(sorted({'asyncio', 'msgspec', 'click'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
