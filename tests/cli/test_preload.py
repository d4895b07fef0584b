"""`--preload`: workers of `serve` and `run`, forked from a process that has imported the program."""

import os
import signal

import pytest

from everycore.cli.command import SettingsCommand
from everycore.cli.run import plan as plan_of_run
from everycore.cli.run import read_options as read_run
from everycore.cli.run import run as run_command
from everycore.cli.serve import given_by, plan, read_options, serve
from everycore.errors import ConfigurationError
from tests.kit import children, wait_gone
from tests.kit.running import ANSWER, ask, run
from tests.kit.serving import wait_serving

#: Answers with the version of the code, whose import is logged, and with the processes that imported it and
#: that answer.
APP = """
import os, everycore

VERSION = "one"
IMPORTER = os.getpid()
os.write(1, b"imported by %d\\n" % IMPORTER)

@everycore.after_fork
def tell():
    os.write(1, b"forked %d\\n" % os.getpid())

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        assert everycore.is_worker
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{VERSION} {IMPORTER} {os.getpid()}".encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def answers(served, count: int = 4) -> list[list[str]]:
    """Version, importer and worker, of some requests."""
    return [served.get().split() for _ in range(count)]


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.parametrize("loop", ["uvloop"])
@pytest.mark.parametrize("policy", ["round_robin", pytest.param("shared", marks=pytest.mark.ci_only)])
def test_workers_come_from_one_mold_through_deaths_and_reloads(serve, tmp_path, policy, loop):
    served = serve("--preload", "--policy", policy, "--loop", loop, source=APP)
    program = served.program
    mold = int(program.expect(r"imported by (\d+)")[1])
    found = answers(served)
    assert {(version, int(importer)) for version, importer, _ in found} == {("one", mold)}
    assert sorted(children(program.pid)) == sorted({mold} | {int(pid) for *_, pid in found})

    os.kill(int(found[0][2]), signal.SIGKILL)
    program.expect(r"its successor is already starting", stream="stderr")
    (tmp_path / "main.py").write_text("1 / 0")
    program.signal(signal.SIGHUP)
    program.expect("reload 1 failed: .* the others keep running:", stream="stderr")
    program.expect("ZeroDivisionError", stream="stderr")
    [victim] = {pid for *_, pid in answers(served, 1)}
    os.kill(int(victim), signal.SIGKILL)
    program.expect("its successor is already starting|its slot is filled again", stream="stderr")
    assert {(version, int(importer)) for version, importer, _ in answers(served)} == {("one", mold)}

    (tmp_path / "main.py").write_text(APP.replace('"one"', '"two"'))
    program.signal(signal.SIGHUP)
    program.expect("reload 2: all workers are new", stream="stderr")
    new = int(program.expect(r"imported by (\d+)")[1])
    assert {(version, int(importer)) for version, importer, _ in answers(served)} == {("two", new)}
    wait_gone([mold])

    os.kill(new, signal.SIGKILL)
    program.expect("the mold ended: killed by SIGKILL; running workers go on", stream="stderr")
    assert {version for version, *_ in answers(served)} == {"two"}
    third = int(program.expect(r"imported by (\d+)")[1])
    assert program.finish() == 0
    wait_gone([third])
    assert program.stdout.count("imported by") == 3
    assert program.stdout.count("forked") >= 6


@pytest.mark.slow
def test_an_application_that_cannot_be_imported_is_told_once(start):
    program = start("--preload", "--workers", "2", source="1 / 0")
    assert program.wait() == 3
    assert program.stderr.count("ZeroDivisionError") == 1
    assert "everycore: cannot start main:app:\nTraceback" in program.stderr
    assert "everycore/mold" not in program.stderr


@pytest.mark.slow
def test_threads_are_named_and_workers_are_fresh_interpreters_unless_forced(start):
    thread = 'threading.Thread(target=threading.Event().wait, name="ticker", daemon=True)'
    program = start("--preload", "--workers", "1", source=f"import threading\n{thread}.start()\n{APP}")
    told = "threads are alive in the mold after the import: ticker; workers are fresh"
    program.expect(told, stream="stderr")
    [[_, importer, worker]] = answers(wait_serving(program), 1)
    assert importer == worker


@pytest.mark.slow
def test_a_program_finds_itself_as_python_would_run_it(start_command, tmp_path):
    (tmp_path / "heavy.py").write_text("import os\nWHO = os.getpid()\n")
    source = f"""
import heavy
assert __name__ == "__main__" and "heavy" in sys.modules
assert heavy.WHO != os.getpid() and sys.path[0] == {str(tmp_path)!r} and sys.path.count(sys.path[0]) == 1
{ANSWER.split("import asyncio, os, signal, socket, sys, threading")[1]}
asyncio.run(main())
"""
    running = run(
        start_command,
        tmp_path,
        "import asyncio, os, signal, socket, sys, threading\n" + source,
        options=["--preload", "heavy,json"],
    )
    port = running.port()
    assert all(ask(port).strip().isdigit() for _ in range(4))
    assert running.program.finish() == 0


# As it is read


@pytest.mark.usefixtures("no_foreign_settings")
def test_the_settings_of_workers():
    with serve_context("--preload") as context:
        worker = plan(read_options(given_by(context), {})).worker
    assert (worker.preload, worker.preload_force) == ("everycore.servers.preparing:prepare", False)
    with serve_context() as context:
        assert plan(read_options(given_by(context), {})).worker.preload is None
    assert program("--preload", "numpy,json", "--preload", "a.b:c", "--preload-force").preload == (
        "numpy",
        "json",
        "a.b:c",
    )


@pytest.mark.usefixtures("no_foreign_settings")
@pytest.mark.parametrize("name", ["1x", "a-b", "a:b:c", "a,,b"])
def test_names_that_are_not_modules(name):
    with pytest.raises(ConfigurationError, match=r"--preload: must be MODULE or MODULE:FUNCTION"):
        program("--preload", name)


def serve_context(*words):
    return serve.make_context("serve", [*words, "main:app"])


def program(*words):
    with run_command.make_context("run", [*words, __file__]) as context:
        assert isinstance(context.command, SettingsCommand)
        return plan_of_run(read_run(context.command.given(context), [__file__], {})).worker
