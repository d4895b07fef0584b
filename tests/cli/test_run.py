"""`everycore run` runs programs as python does."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import zipfile

import pytest

import everycore.launch
from everycore.cli.main import main
from tests.kit import scaled
from tests.kit.running import ANSWER, alone, command, run
from tests.kit.serving import complaint

#: Prints what a program sees of itself, except the depth of its stack: everycore's frames are below it.
PROBE = '''
"""The docstring."""
import __main__, gc, os, pickle, sys

class Thing:
    pass

names = {name: value for name, value in globals().items() if name.startswith("__")}
print(sorted(names), __name__, __doc__, __package__, __file__)
print(type(__builtins__), type(__loader__), getattr(__spec__, "name", None), sys.argv, sys.path)
print(sys.orig_argv[1:], sys.flags, sys.warnoptions, sys._xoptions, os.getcwd())
print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())
print(__main__.Thing is Thing, type(pickle.loads(pickle.dumps(Thing()))) is Thing)
print(repr(__import__("signal").getsignal(2)), sys.stdin.read())
'''


@pytest.fixture
def folder(tmp_path):
    """A folder with the probe in every form that a program has."""
    (tmp_path / "probe.py").write_text(PROBE)
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "module.py"):
        (package / name).write_text("" if name == "__init__.py" else PROBE)
    (tmp_path / "link.py").symlink_to(package / "module.py")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    return tmp_path


PROGRAMS = [
    ["probe.py", "one", "--two", "-m", "three"],
    ["./probe.py"],
    ["package/../probe.py"],
    ["link.py", "--workers", "7"],
    ["package"],
    ["archive.zip", "argument"],
    ["-m", "package", "--help"],
    ["-m", "package.module", "-m", "x"],
]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_program_sees_what_it_sees_under_python(start_command, folder, program):
    expected = alone(folder, *program)
    started = start_command(command(*program, workers=1), cwd=folder)
    assert (started.wait(), started.stdout) == (expected[0], expected[1])


@pytest.mark.slow
def test_a_signal_ignored_from_the_start_is_ignored_in_the_program(start_command, folder):
    """As after nohup, or `&` in a script. The primary handles SIGINT all the same, and stops."""
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    expected = subprocess.run(
        [*ignoring, sys.executable, "probe.py"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "SIG_IGN" in expected.stdout
    started = start_command([*ignoring, *command("probe.py", workers=1)], cwd=folder)
    assert (started.wait(), started.stdout) == (expected.returncode, expected.stdout)


@pytest.mark.slow
def test_the_folder_one_is_in(start_command, folder):
    expected = alone(folder / "package", ".", "argument")
    started = start_command(command(".", "argument", workers=1), cwd=folder / "package")
    assert (started.wait(), started.stdout) == (expected[0], expected[1])


FLAGS = [["-X", "dev", "-O"], ["-P"], ["-I"], ["-W", "error", "-s", "-B"], ["-Xutf8=1", "-q"]]


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("program", [["probe.py"], ["package"]], ids=" ".join)
def test_flags_of_the_interpreter_are_kept(start_command, folder, flags, program):
    expected = alone(folder, *program, flags=flags)
    started = start_command(command(*program, workers=1, flags=flags), cwd=folder)
    assert (started.wait(), started.stdout) == (expected[0], expected[1])


@pytest.mark.slow
def test_compiled_script(start_command, folder):
    subprocess.run([sys.executable, "-m", "compileall", "-b", "-q", "probe.py"], cwd=folder, check=True)
    expected = alone(folder, "probe.pyc")
    started = start_command(command("probe.pyc", workers=1), cwd=folder)
    assert (started.wait(), started.stdout) == (expected[0], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(start_command, tmp_path, method):
    source = f"""
        import multiprocessing, os
        def double(number):
            return 2 * number
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with context.Pool(2) as pool:
                print(pool.map(double, range(5)))
            queue = context.Queue()
            child = context.Process(target=queue.put, args=(os.getppid,))
            child.start()
            print(queue.get() is os.getppid)
            child.join()
            with context.Manager() as manager:
                print(manager.dict(a=1)["a"])
    """
    running = run(start_command, tmp_path, source, workers=1)
    assert running.program.wait() == 0
    assert running.program.stdout.split() == ["[0,", "2,", "4,", "6,", "8]", "True", "1"]


CLUSTER = """
import asyncio, everycore

async def main():
    async with everycore.Cluster() as cluster:
        await cluster.wait()

async def in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(main())

async def while_it_listens():
    await asyncio.start_server(print, "127.0.0.1", 0)
    await main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("main", ["main", "in_a_group"])
def test_a_cluster_in_a_cluster_gets_a_sentence(start_command, tmp_path, main):
    running = run(start_command, tmp_path, f"{CLUSTER}\neverycore.run({main}())", "--port", "1")
    assert running.program.wait() == 2
    (sentence,) = complaint(running.program)
    assert sentence.startswith("everycore: this program opens a Cluster of its own")
    assert sentence.endswith("start it with: python server.py --port 1")


@pytest.mark.slow
def test_a_cluster_after_it_has_listened_gets_it_too(start_command, tmp_path):
    running = run(start_command, tmp_path, f"{CLUSTER}\nasyncio.run(while_it_listens())", workers=1)
    running.program.expect("this program opens a Cluster of its own", stream="stderr")
    running.program.finish()
    assert "Traceback" not in running.program.stderr


# Addresses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "asyncio"])
def test_an_address_in_use_is_an_error_as_alone_and_is_named(start_command, tmp_path, kind):
    sources = {
        "plain": "import socket, sys; socket.create_server(('127.0.0.1', int(sys.argv[1])))",
        "asyncio": ANSWER.replace('"127.0.0.1", 0', '"127.0.0.1", int(sys.argv[1])') + "asyncio.run(main())",
    }
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        running = run(start_command, tmp_path, sources[kind], port)
        _, _, expected = alone(tmp_path, "server.py", port)
        assert running.program.wait() == 3
    last = expected.splitlines()[-1]
    assert re.match(r"OSError: \[Errno 98\]", last)
    assert complaint(running.program)[-2:] == [last, f"127.0.0.1:{port} is in use by another process"]


@pytest.mark.slow
def test_python_itself_kills_it_when_nothing_else_helps(start_command, tmp_path):
    source = """
        import signal, socket
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sock = socket.create_server(("127.0.0.1", 0))
        while True:
            signal.pause()
    """
    running = run(start_command, tmp_path, source, workers=1, options=["--grace", "0"])
    running.port()
    assert running.program.finish() == 0
    assert "did not leave in time: killed" in running.program.stderr


@pytest.mark.slow
def test_sigquit_ends_a_deaf_program_at_once_with_its_stacks(start_command, tmp_path):
    source = """
        import signal, socket
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sock = socket.create_server(("127.0.0.1", 0))
        def stay():
            print("stays", flush=True)
            while True:
                signal.pause()
        stay()
    """
    running = run(start_command, tmp_path, source)
    for _ in range(2):
        running.program.expect("stays")
    running.program.signal(signal.SIGQUIT)
    assert running.program.wait() == 1
    assert "SIGQUIT" in complaint(running.program)[-1]
    assert sum(line.endswith(" in stay") for line in running.program.stderr.splitlines()) == 2
    assert len(re.findall(r"worker [12] \(pid \d+\) is ending; its stacks:\n", running.program.stderr)) == 2


@pytest.mark.slow
def test_a_programs_own_handler_of_sigquit_is_what_it_would_be_alone(start_command, tmp_path):
    source = """
        import os, signal, socket
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
        signal.signal(signal.SIGQUIT, lambda *_: (os.write(1, b"its own\\n"), os._exit(0)))
        sock = socket.create_server(("127.0.0.1", 0))
        while True:
            signal.pause()
    """
    running = run(start_command, tmp_path, source)
    running.port()
    running.program.signal(signal.SIGQUIT)
    assert running.program.wait() == 1
    assert running.program.stdout == "its own\nits own\n"


@pytest.mark.slow
def test_a_signal_before_the_program_begins_is_not_told_of(start_program, tmp_path):
    """A SystemExit in the preparations of `everycore run` would otherwise end as an unrelated error."""
    launcher = os.path.join(os.path.dirname(everycore.launch.__file__), "__main__.py")
    (tmp_path / "worker.py").write_text("import os, signal\nos.write(1, b'begun\\n')\nsignal.pause()\n")
    source = f"""
        import asyncio, sys, everycore
        async def main():
            command = [sys.executable, {launcher!r}, "auto", "worker.py"]
            async with everycore.Cluster(everycore.Settings(exec=command)) as cluster:
                cluster.on(everycore.Online, lambda event: event.worker.kill())
                print(await cluster.fork().wait())
        everycore.run(main())
    """
    primary = start_program(source)
    assert primary.wait() == 0
    # The program may have reached its first line: the signal comes right at its start.
    assert primary.stdout.splitlines()[-1] == "exit status 0"
    assert primary.stderr == ""


@pytest.mark.slow
def test_a_request_at_hand_is_finished(start_command, tmp_path):
    source = """
        import socketserver
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                print("begun", flush=True)
                self.wfile.write(self.rfile.readline())
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler).serve_forever()
    """
    running = run(start_command, tmp_path, source)
    with socket.create_connection(("127.0.0.1", running.port()), timeout=scaled(20)) as sock:
        running.program.expect("begun")
        running.program.signal(signal.SIGTERM)
        running.program.expect("finishing", stream="stderr")
        sock.sendall(b"still here\n")
        assert sock.recv(100) == b"still here\n"
    assert running.program.wait() == 0


@pytest.mark.slow
def test_a_worker_of_a_program_that_knows_us(start_command, tmp_path):
    source = """
        import asyncio, everycore, os
        async def main():
            me = everycore.current_worker()
            server = await asyncio.start_server(print, "127.0.0.1", 0)
            told = asyncio.create_task(me.wait_shutdown())
            await asyncio.sleep(0)
            os.write(1, b"waiting\\n")
            await told
            os.write(1, b"worker %d leaves\\n" % me.id)
        asyncio.run(main())
    """
    running = run(start_command, tmp_path, source)
    for _ in range(2):
        running.program.expect("waiting")
    assert running.program.finish() == 0
    assert sorted(running.program.stdout.splitlines())[2:] == ["worker 1 leaves", "worker 2 leaves"]


# Usage

BAD = [
    ([], "needs a program"),
    (["/dev/stdin"], "a program from standard input cannot be run several times"),
    (["no_such_file.py"], "there is no file 'no_such_file.py'"),
    (["-"], "standard input"),
    (["-m"], "needs a program"),
    (["--workers", "0", "x.py"], "from 1 to 1000"),
    (["--loop", "best", "x.py"], "auto, asyncio, uvloop"),
    (["--nosuch", "x.py"], "--nosuch"),
    (["--bind", "127.0.0.1:1", "x.py"], "--bind"),
]


@pytest.mark.parametrize(
    ("argv", "problem"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_usage(argv, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").touch()
    assert main(["run", *argv]) == 2
    sentence, hint = capsys.readouterr().err.splitlines()
    assert sentence.startswith("everycore: ")
    assert problem in sentence
    assert hint == "Try 'everycore run --help'."


def test_help(capsys):
    assert main(["run", "--help"]) == 0
    text = textwrap.dedent(capsys.readouterr().out)
    assert "everycore run [OPTIONS] SCRIPT|-m MODULE [ARGS]..." in text
    assert "--workers" in text


def test_a_missing_module(start_command, tmp_path):
    started = start_command(command("-m", "no.such.module"), cwd=tmp_path)
    assert started.wait() == 3
    _, _, expected = alone(tmp_path, "-m", "no.such.module")
    assert complaint(started) == [f"everycore: {expected.rstrip()}"]
