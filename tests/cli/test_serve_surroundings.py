"""`everycore serve` in its surroundings: sockets, files, variables, folders, logs, threads."""

import json
import os
import re
import signal
import socket
import stat
import sys

import pytest

from tests.kit import scaled
from tests.kit.folders import ROOT
from tests.kit.log_lines import wait_for_line
from tests.kit.serving import wait_serving

#: Answers with variables of its environment and the folder that it is in.
APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    body = json.dumps([os.environ.get("COLOUR"), os.environ.get("SIZE"), os.getcwd(), scope["path"]]).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def command(*options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "everycore", "serve", "--workers", "1", *options, "main:app"]


@pytest.fixture
def begin(start_command, tmp_path):
    def begin_it(*options: str, source: str = APP) -> object:
        (tmp_path / "main.py").write_text(source)
        program = start_command(command(*options))
        program.expect("ready: all", stream="stderr")
        return program

    return begin_it


@pytest.mark.slow
def test_a_unix_socket_of_its_own_mode_and_owner_and_a_pid_file(begin, tmp_path):
    program = begin(
        "--uds",
        "app.sock",
        "--socket-mode",
        "640",
        "--socket-owner",
        f"{os.getuid()}:{os.getgid()}",
        "-p",
        "x.pid",
    )
    found = (tmp_path / "app.sock").stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, os.getuid(), os.getgid())
    assert int((tmp_path / "x.pid").read_text()) == program.pid
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(scaled(20))
        sock.connect(str(tmp_path / "app.sock"))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert program.finish() == 0
    assert not (tmp_path / "x.pid").exists()


@pytest.mark.slow
def test_variables_folders_and_the_access_log(start_command, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "main.py").write_text(APP)
    (tmp_path / "there" / "some.env").write_text("COLOUR=green\nSIZE='quite big'\n")
    options = ["--bind", "127.0.0.1:0", "--chdir", "there", "--env", "COLOUR=red", "--env-file", "some.env"]
    log = ["--access-logfile", "access.log", "--access-logformat", '%(h)s "%(r)s" %(s)s %(U)s?%(q)s']
    served = wait_serving(start_command(command(*options, *log)))
    there = str(tmp_path / "there")
    assert json.loads(served.get("/x?y=1")) == [
        "red",
        "quite big",
        there,
        "/x",
    ]  # variables that are set already stay
    access = tmp_path / "there" / "access.log"
    wait_for_line(access, ".")  # the client gets its answer before that
    assert access.read_text() == '127.0.0.1 "GET /x?y=1 HTTP/1.1" 200 /x?y=1\n'
    access.rename(tmp_path / "old.log")
    served.get("/z")
    assert served.program.finish() == 0
    assert access.read_text() == '127.0.0.1 "GET /z HTTP/1.1" 200 /z?\n'


@pytest.mark.slow
def test_a_log_configuration_as_uvicorn_reads_it(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    page = (ROOT / "docs" / "how-to" / "logs.md").read_text()
    (tmp_path / "log.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    served = wait_serving(start_command(command("--bind", "127.0.0.1:0", "--log-config", "log.yaml")))
    served.get("/x")
    assert served.program.finish() == 0
    [line] = [line for line in served.program.stderr.splitlines() if "/x" in line]  # told once
    assert re.search(r' worker=1 127\.0\.0\.1:\d+ - "GET /x HTTP/1.1" 200 [\d.]+ms id=[0-9a-f]{32}$', line)


@pytest.mark.slow
def test_a_log_configuration_that_is_wrong(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "log.json").write_text('{"version": 1, "handlers": {"x": {"class": "nosuch.Handler"}}}')
    program = start_command(command("--bind", "127.0.0.1:0", "--log-config", "log.json"))
    assert program.wait() == 3
    assert "everycore: uvicorn refuses --log-config log.json: ValueError: " in program.stderr
    assert "Traceback" not in program.stderr


THREADS = """
import threading

met = threading.Barrier(3)

def app(environ, start_response):
    met.wait()  # until three requests are in the application
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.slow
def test_threads_of_a_wsgi_application(start_command, tmp_path):
    """As many requests as threads are in the application at once."""
    (tmp_path / "main.py").write_text(THREADS)
    served = wait_serving(start_command(command("--bind", "127.0.0.1:0", "--threads", "3")))
    connections = [served.connect() for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/")
    assert [connection.getresponse().read() for connection in connections] == [b"ok"] * 3
    for connection in connections:
        connection.close()
    assert served.program.finish() == 0


@pytest.mark.slow
def test_the_mask_does_not_hold_for_the_pid_file(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    options = ["--pid", "x.pid", "--umask", "027"]
    served = wait_serving(start_command(command("--bind", "127.0.0.1:0", "--workers", "1", *options)))
    assert (tmp_path / "x.pid").read_text() == f"{served.program.pid}\n"
    assert (tmp_path / "x.pid").stat().st_mode & 0o777 == 0o644
    assert served.program.finish() == 0
    assert not (tmp_path / "x.pid").exists()


@pytest.mark.slow
def test_a_pid_file_of_a_live_process(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "x.pid").write_text(f"{os.getpid()}\n")
    (tmp_path / "everycore.toml").write_text("pid = 'x.pid'")
    program = start_command(command("--bind", "127.0.0.1:0"))
    assert program.wait() == 2
    assert "--pid (from everycore.toml: pid): " in program.stderr
    assert f"names process {os.getpid()}, which is alive" in program.stderr
    assert (tmp_path / "x.pid").read_text() == f"{os.getpid()}\n"


#: Everything on the disk can be read and not written; devices and /dev/shm are other file systems.
#: The working directory may be on another one too (/tmp): here it is a separate mount.
READ_ONLY = """
    mount --make-rprivate / && mount --bind "$PWD" "$PWD" && cd "$PWD" &&
    mount -o remount,ro,bind "$PWD" && mount -o remount,ro,bind / && exec "$@"
"""


def on_a_read_only_root(words: list[str]) -> list[str]:
    if os.geteuid() != 0:
        pytest.fail("to make the root read-only for a program this test must be root")
    return ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *words]


@pytest.mark.slow
def test_a_read_only_root(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    served = wait_serving(start_command(on_a_read_only_root(command("--bind", "127.0.0.1:0"))))
    served.program.signal(signal.SIGHUP)
    served.program.expect("reload 1: all workers are new", stream="stderr")
    assert json.loads(served.get("/here"))[-1] == "/here"
    assert served.program.finish() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "name", "where"), [("--pid", "x.pid", "in '{}', "), ("--access-logfile", "x.log", "")]
)
def test_what_cannot_be_written_on_a_read_only_root(start_command, tmp_path, option, name, where):
    (tmp_path / "main.py").write_text(APP)
    program = start_command(on_a_read_only_root(command("--bind", "127.0.0.1:0", option, name)))
    assert program.wait() == 2
    reason = f"{where.format(os.path.realpath(tmp_path))}it is on a read-only file system"
    assert f"everycore: {option}: cannot write " in program.stderr
    assert reason in program.stderr
