"""Node's tests of `child_process.fork` itself: the program, its arguments and rights, and how it ends."""

import errno
import os
import sys
from signal import SIGKILL, SIGUSR1
from typing import Any

import pytest

from everycore import (
    Cluster,
    ConfigurationError,
    ExitStatus,
    Settings,
)
from tests.conformance.node import node
from tests.kit import open_fds, wait_gone
from tests.kit.trouble import no_descriptors
from tests.kit.workers import HEAD, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Prints how it was called, and does nothing else.
ECHO_OPTIONS = """
async def main():
    await everycore.current_worker().send([sys.argv[1:], os.environ.get("FOO")])

everycore.run(main())
"""


@node("test-child-process-fork")
async def test_child_process_fork(tmp_path):
    """`undefined` is not a message: a call needs one. Python's None can be sent, as JavaScript's null."""
    args = ["foo", "bar"]
    source = """
    async def main():
        me = everycore.current_worker()
        await me.send({"foo": sys.argv[1:]})
        async for message in me.messages():
            if message.message == {"hello": "world"}:
                break
            await me.send({"unexpected": message.message})

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source), args=args)) as cluster:
        worker = cluster.fork()
        assert worker.is_connected()
        assert args == ["foo", "bar"]
        sends: list[Any] = [
            worker.send,
            worker.send_nowait,
            lambda *message: worker.request(*message, timeout=None),
        ]
        for send in sends:
            with pytest.raises(TypeError, match="message"):
                send()
            with pytest.raises(TypeError, match="message: object"):
                send(object())
        await worker.send({"hello": "world"})
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert [message.message async for message in worker.messages()] == [{"foo": ["foo", "bar"]}]
    assert args == ["foo", "bar"]


@node("test-child-process-fork3")
def test_child_process_fork3(start_program, tmp_path):
    (tmp_path / "empty.py").touch()
    program = start_program(
        HEAD
        + """
async def main():
    async with everycore.Cluster(everycore.Settings(exec="empty.py")) as cluster:
        cluster.fork()
        await cluster.wait()

everycore.run(main())
"""
    )
    assert program.wait() == 0
    assert program.stderr == ""


@node("test-child-process-fork-and-spawn")
async def test_child_process_fork_and_spawn(tmp_path):
    """The worker's own child is not a worker: it has no part of the channel, and does not wait for one."""
    source = """
    import subprocess

    if sys.argv[1] == "spawn":
        sockets = [
            fd for fd in os.listdir("/proc/self/fd")
            if os.path.exists(path := f"/proc/self/fd/{fd}") and os.readlink(path).startswith("socket:")
        ]
        variables = [name for name in os.environ if name.startswith("_EVERYCORE")]
        say(everycore.is_worker, sockets, variables)
        sys.exit(0)

    async def main():
        spawned = subprocess.run(
            [sys.executable, __file__, "spawn"], stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        await everycore.current_worker().send(spawned.stdout.decode())

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source), args=["fork"])) as cluster:
        worker = cluster.fork()
        assert await within(worker.wait()) == ExitStatus(code=0)
        assert [message.message async for message in worker.messages()] == ["False [] []\n"]


@node(
    "test-child-process-fork-args",
    adapted="The program and its arguments are settings, and a wrong one is a ConfigurationError "
    "(also a ValueError) that names it. None, for exec too, means this program's own.",
)
async def test_child_process_fork_args(tmp_path):
    """Node's `fork(modulePath, args, options)` is `setup_primary(exec=, args=, env=)`, then `fork(env)`.

    A missing module path is allowed here: `exec=None` is this command line again, as in Node's cluster.
    """
    script = worker_script(tmp_path, ECHO_OPTIONS)
    async with Cluster() as cluster:
        wrong: Any
        for wrong in (0, True, [], {}, lambda: None, object(), [script]):
            with pytest.raises(ConfigurationError, match="exec"):
                cluster.setup_primary(exec=wrong)
        for wrong in (0, True, "one two", {}, lambda: None, object(), [1]):
            with pytest.raises(ConfigurationError, match="args"):
                cluster.setup_primary(exec=script, args=wrong)
        cluster.setup_primary(exec=script)
        for wrong in (0, True, "A=1", ["A=1"], lambda: None, object(), {"A": 1}):
            with pytest.raises(ConfigurationError, match="env"):
                cluster.setup_primary(env=wrong)
            with pytest.raises(ConfigurationError, match="env"):
                cluster.fork(wrong)
        assert len(cluster.workers) == 0  # the failed fork left no process

        workers = []
        args: Any
        for args in (None, [], ()):
            cluster.setup_primary(args=args)
            workers.append(cluster.fork({"FOO": "bar"}))
        for worker, args in zip(workers, (sys.argv[1:], [], []), strict=True):
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert [message.message async for message in worker.messages()] == [[args, "bar"]]


@node(
    "test-child-process-fork-url",
    adapted="Python names a file by a path: exec takes a str or a pathlib.Path. A file: URL is not a path.",
)
async def test_child_process_fork_url(tmp_path):
    """Characters that a URL would escape are taken literally."""
    script = worker_script(tmp_path, ECHO_OPTIONS, "a b%20c#d?é.py")
    async with Cluster(Settings(exec=script, args=["1"])) as cluster:
        first = cluster.fork()
        cluster.setup_primary(exec=str(script))
        for worker in (first, cluster.fork()):
            assert (await within(anext(worker.messages()))).message == [["1"], None]
            assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-esm-child-process-fork-main")
def test_esm_child_process_fork_main(start_command, tmp_path):
    """Python runs modules as programs: `python -m`, also where a worker runs the same program again."""
    package = tmp_path / "application"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        HEAD
        + """
async def primary():
    async with everycore.Cluster() as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        await worker.send("hello")
        say("echo", (await anext(messages)).message)
        worker.disconnect()
        say("worker:", await worker.wait())

async def worker():
    me = everycore.current_worker()
    async for message in me.messages():
        await me.send([message.message, __package__])

everycore.run(primary() if everycore.is_primary else worker())
"""
    )
    program = start_command([sys.executable, "-m", "application"], cwd=tmp_path)
    program.expect(r"^echo \['hello', 'application'\]$")
    program.expect("^worker: exit status 0$")
    assert program.wait() == 0


@node(
    "test-child-process-fork-exec-argv",
    adapted="The flags are those of the Python interpreter (-O, -X, -W); exec_argv replaces them.",
)
def test_child_process_fork_exec_argv(start_program, tmp_path):
    """A worker inherits them whether it runs the same program or another script."""
    other = worker_script(tmp_path, "say(sys.flags.optimize, sys._xoptions)")
    program = start_program(
        HEAD
        + """
async def main():
    async with everycore.Cluster() as cluster:
        for settings in ({}, {"exec": sys.argv[1]}, {"exec_argv": []}):
            cluster.setup_primary(**settings)
            await cluster.fork().wait()

if everycore.is_primary:
    everycore.run(main())
else:
    say(sys.flags.optimize, sys._xoptions)
""",
        str(other),
        flags=["-O", "-X", "conformance=yes"],
    )
    program.expect(r"^1 \{'conformance': 'yes'\}$")
    program.expect(r"^1 \{'conformance': 'yes'\}$")
    program.expect(r"^0 \{\}$")
    assert program.wait() == 0


@node(
    "test-child-process-fork-exec-path",
    adapted="There is no execPath: another interpreter is the first word of exec as an argument vector. "
    "Otherwise it is sys.executable.",
)
async def test_child_process_fork_exec_path(tmp_path):
    """Node copies its executable; a copied Python must be told where its modules are."""
    source = """
    async def main():
        await everycore.current_worker().send([sys.executable, sys.orig_argv[0]])

    everycore.run(main())
    """
    script = worker_script(tmp_path, source)
    link = str(tmp_path / "another python")
    os.symlink(sys.executable, link)
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    async with Cluster(Settings(exec=[link, str(script)], env=env)) as cluster:
        worker = cluster.fork()
        assert (await within(anext(worker.messages()))).message == [link, link]
        assert await within(worker.wait()) == ExitStatus(code=0)
        cluster.setup_primary(exec=script)
        assert (await within(anext(cluster.fork().messages()))).message == [sys.executable] * 2


@node("test-child-process-fork-no-shell")
async def test_child_process_fork_no_shell(tmp_path):
    script = worker_script(tmp_path, ECHO_OPTIONS, "$FOO;exit.py")
    words = ["$FOO", "`exit 1`", "a b", "*", "", ">x"]
    async with Cluster(Settings(exec=script, args=words, env={"FOO": "bar"}, cwd=tmp_path)) as cluster:
        worker = cluster.fork()
        assert (await within(anext(worker.messages()))).message == [words, "bar"]
        assert await within(worker.wait()) == ExitStatus(code=0)
    with pytest.raises(TypeError, match="shell"):
        Settings(exec=script, shell=True)  # type: ignore[call-arg]


@node(
    "test-child-process-fork-detached",
    adapted="A worker never outlives its primary for ever. With new_group, signals from the terminal "
    "spare it. With orphan_grace it may finish its work when the primary is killed; by "
    "default it is killed as well.",
)
def test_child_process_fork_detached(start_program):
    """Node's `detached`, where the child goes on until it is killed."""
    program = start_program(
        HEAD
        + """
async def primary():
    async with everycore.Cluster(new_group=True, orphan_grace=1000.0) as cluster:
        cluster.fork()
        await for_ever()

async def worker():
    say("worker", os.getpid(), os.getpgid(0))
    await everycore.current_worker().wait_shutdown()
    say("alone")
    go_on = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go_on.set)
    say("busy")
    await go_on.wait()
    say("done")

everycore.run(primary() if everycore.is_primary else worker())
"""
    )
    worker, group = map(int, program.expect(r"worker (\d+) (\d+)").groups())
    assert group == worker
    program.signal(SIGKILL)
    program.expect("alone")
    program.expect("busy")
    assert program.wait() == -SIGKILL
    os.kill(worker, 0)  # still running
    os.kill(worker, SIGUSR1)
    program.expect("done")
    assert wait_gone([worker]) == []


@node(
    "test-child-process-uid-gid",
    adapted="fork() never raises an error of the kernel: the worker's Exited has it, as status.error.",
)
def test_child_process_uid_gid(start_program):
    """A worker of another user needs rights; the tests run as root, so the program drops them first."""
    program = start_program(
        HEAD
        + """
async def main():
    everycore.Cluster, everycore.Settings  # imported while the folders of root can be read
    import ctypes  # by which a worker is confined
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    settings = everycore.Settings(exec=[sys.executable, "-c", "print('it runs')"], cwd="/")
    async with everycore.Cluster(settings) as cluster:
        for uid, gid in ((0, None), (None, 0), (os.getuid() - 1, os.getgid() - 1)):
            cluster.setup_primary(uid=uid, gid=gid)
            worker = cluster.fork()
            status = await worker.wait()
            say(type(status.error).__name__, status.error.errno, status.code, status.signal, worker.pid)

everycore.run(main())
"""
    )
    assert program.wait() == 0
    assert program.stdout == f"PermissionError {errno.EPERM} None None None\n" * 3


@node(
    "test-child-process-emfile",
    adapted="There is no 'error' event: the one Exited, which always comes, has status.error and "
    "neither code nor signal.",
)
async def test_child_process_emfile(tmp_path):
    """The fork that takes the last descriptor fails, and so does any with too few for the worker's own."""
    async with Cluster(Settings(exec=[sys.executable, "-c", ""], cwd=tmp_path)) as cluster:
        await within(cluster.fork().wait())
        before = open_fds()
        diary = Diary(cluster)
        for spare in (0, 1, 4, 5):
            with no_descriptors(spare):
                worker = cluster.fork()
                status = await within(worker.wait())
            assert status.error is not None
            assert status.error.errno == errno.EMFILE
            assert (status.code, status.signal, worker.pid) == (None, None, None)
            assert diary.names(worker) == ["Forked", "Disconnected", "Exited"]
            assert open_fds() == before
        assert await within(cluster.fork().wait()) == ExitStatus(code=0)
