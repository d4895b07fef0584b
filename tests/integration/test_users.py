"""Workers of another user, with real users: `--user` of the commands, and what such a worker has left."""

import errno
import json
import os
import signal
import socket
import sys
import textwrap

import pytest

from tests.kit import wait_gone
from tests.kit.log_lines import wait_for_line
from tests.kit.others import GID, UID, folder_for_others, python_for_others
from tests.kit.ports import free_port
from tests.kit.serving import wait_serving

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

#: Answers with what it is, what it has, and what it can do to the primary.
APP = """
import ctypes, errno, json, os

_libc = ctypes.CDLL(None, use_errno=True)
INHERITED = sorted(map(int, os.listdir("/proc/self/fd")))
IMPORTED_BY = os.getresuid(), os.getpid()

def attempt(what, *args):
    try:
        what(*args)
    except OSError as error:
        return error.errno
    return 0

def memory(pid):
    open(f"/proc/{pid}/mem", "rb").close()

def take(pid):
    # pidfd_getfd(2)
    if _libc.syscall(438, os.pidfd_open(pid), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
    primary = os.getppid()
    body = json.dumps({
        "importer": IMPORTED_BY, "pid": os.getpid(),
        "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
        "privileges": int(status["NoNewPrivs"]) - 1 + sum(
            int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")
        ),
        "leads": os.getsid(0) == os.getpid(),
        "env": dict(os.environ),
        "memory": attempt(memory, primary), "kill": attempt(os.kill, primary, 0),
        "take": attempt(take, primary),
    }).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read every process")


@pytest.fixture
def place():
    with folder_for_others() as folder:
        yield folder


@pytest.fixture
def serve(start_command, place):
    python, env = python_for_others()
    (place / "main.py").write_text(APP)

    def serve_it(*options, **variables):
        command = [python, "-P", "-m", "everycore", "serve", "--workers", "1", "--chdir", str(place)]
        return start_command([*command, *options, "--user", str(UID), "main:app"], env={**env, **variables})

    return serve_it


def port_of_root(least):
    """A port that only root may bind, among a hundred from `least` on: each test has its own."""
    begin = os.getpid() % 100
    for port in (least + (begin + number) % 100 for number in range(100)):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.skip("all these ports are taken")


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["fresh", "forked"])
def test_what_a_worker_is_and_what_it_is_left_with(serve, options):
    """The primary binds the ports; the worker has nothing of root but what was passed to it."""
    program = serve("--bind", f"127.0.0.1:{port_of_root(700)}", *options, SECRET="of the service")
    shown = json.loads(wait_serving(program).get())
    assert shown["importer"][0] == [UID] * 3  # root imports nothing either
    assert (shown["importer"][1] != shown["pid"]) is bool(options)
    assert (shown["uid"], shown["gid"], shown["groups"]) == ([UID] * 3, [GID] * 3, [GID])
    assert shown["privileges"] == 0
    assert shown["leads"]
    assert (shown["memory"], shown["kill"], shown["take"]) == (errno.EACCES, errno.EPERM, errno.EPERM)
    assert shown["env"]["SECRET"] == "of the service"
    assert (shown["env"]["USER"], shown["env"]["LOGNAME"]) == ("nobody", "nobody")
    assert shown["env"]["HOME"] != os.environ.get("HOME")
    program.finish()


@needs_root
def test_one_of_the_same_user_may_do_anything_and_the_primary_runs_nothing_of_it(start_command, tmp_path):
    """No program can change that. Only the worker imports the application."""
    (tmp_path / "main.py").write_text(f"{APP}\nopen('imports', 'a').write(f'{{os.getpid()}} ')\n")
    serve = [
        sys.executable,
        "-m",
        "everycore",
        "serve",
        "--workers",
        "1",
        "--port",
        "0",
        "--chdir",
        str(tmp_path),
    ]
    program = start_command([*serve, "main:app"])
    shown = json.loads(wait_serving(program).get())
    assert (shown["memory"], shown["kill"], shown["take"]) == (0, 0, 0)
    assert str(program.pid) not in (tmp_path / "imports").read_text().split()
    program.finish()


def test_a_unix_socket_and_log_files_are_theirs_and_a_stale_socket_is_replaced(serve, place):
    (place / "logs").mkdir()
    options = ("--uds", "app.sock", "--log-file", "logs/main.log", "--access-logfile", "logs/access.log")
    for how in (signal.SIGKILL, signal.SIGTERM):
        program = serve(*options)
        wait_for_line(place / "logs" / "main.log", "ready: all")
        found = os.lstat(place / "app.sock")
        assert (found.st_uid, found.st_gid) == (UID, GID)
        for name in ("main.log", "access.log"):
            assert (place / "logs" / name).stat().st_uid == UID
        (place / "logs" / "main.log").unlink()
        workers = program.descendants()
        program.signal(how)
        program.wait()
        wait_gone(workers)
        assert (place / "app.sock").is_socket() is (how == signal.SIGKILL)


PROGRAM = """
import os, socket, sys
with socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", int(sys.argv[1])))
    sock.listen()
    print("listens", sock.getsockname(), flush=True)
    while True:
        conn, _ = sock.accept()
        conn.sendall(b"%d" % os.getuid())
        conn.close()
"""


@pytest.mark.parametrize("policy", ["round_robin", pytest.param("shared", marks=pytest.mark.ci_only)])
def test_a_program_listens_on_what_is_permitted(start_command, place, policy):
    python, env = python_for_others()
    (place / "program.py").write_text(PROGRAM)
    port = port_of_root(850)
    run = [python, "-m", "everycore", "run", "--workers", "1", "--policy", policy, "--user", str(UID)]
    program = start_command([*run, "--permit", f":{port}", str(place / "program.py"), str(port)], env=env)
    program.expect("ready: all", stream="stderr")
    with socket.create_connection(("127.0.0.1", port)) as sock:
        assert sock.recv(100) == str(UID).encode()
    program.finish()


def test_a_program_that_listens_elsewhere_is_told_which_option_permits_it(start_command, place):
    python, env = python_for_others()
    (place / "program.py").write_text(PROGRAM)
    run = [python, "-m", "everycore", "run", "--workers", "1", "--user", str(UID), "--permit", ":1"]
    program = start_command([*run, str(place / "program.py"), str(free_port())], env=env)
    program.expect(r"`addresses` \(--permit\) lacks this one", stream="stderr")
    assert program.wait() == 3
    assert "PermissionError" in program.stderr


def test_an_interpreter_that_the_user_cannot_reach_is_told_with_the_user(start_command, tmp_path):
    """Often it is a link to one below /root, whose own path looks accessible."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "python").symlink_to(sys.executable)
    (tmp_path / "python").symlink_to(closed / "python")
    closed.chmod(0o700)
    source = f"""
        import everycore
        settings = everycore.Settings(exec=["{tmp_path}/python", "-c", ""], uid={UID}, cwd="/")
        async def main():
            async with everycore.Cluster(settings) as cluster:
                print((await cluster.fork().wait()).error)
        everycore.run(main())
    """
    (tmp_path / "primary.py").write_text(textwrap.dedent(source))
    program = start_command([sys.executable, str(tmp_path / "primary.py")])
    assert program.wait() == 0
    assert f"uid {UID} may not execute it, or may not enter a folder" in program.stdout
    assert str(tmp_path / "python") in program.stdout
