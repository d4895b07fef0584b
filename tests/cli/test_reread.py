"""HUP reads the settings file again: the new workers' settings, the log, and a wrong file."""

import signal
import ssl
import subprocess
import sys

import pytest

from tests.kit.processes import wait_gone
from tests.kit.running import ANSWER
from tests.kit.serving import Served, command, wait_serving

#: Answers with two variables of its environment and its root path.
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    body = "{COLOUR} {EVERYCORE_GENERATION}".format_map(os.environ).encode() + scope["root_path"].encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def start_with(start_command, tmp_path):
    """Start `everycore serve` with a settings file of that text."""

    def start_it(text: str, *options: str) -> Served:
        (tmp_path / "main.py").write_text(APP)
        (tmp_path / "everycore.toml").write_text(text)
        return wait_serving(start_command(command(*options)))

    return start_it


@pytest.mark.slow
def test_a_reload_takes_the_file_as_it_is_then(start_with, tmp_path):
    served = start_with(
        "workers = 1\nenv.COLOUR = 'red'\nroot-path = '/a'\nstop-delay = 0\nlog-level = 'info'"
    )
    program = served.program
    assert served.get() == "red 0/a"
    (tmp_path / "everycore.toml").write_text("workers = 2\nenv.COLOUR = 'blue'\nroot-path = '/b'\nspare = 1")
    program.signal(signal.SIGHUP)
    program.expect(
        "the reload is refused, and nothing has changed: spare .from everycore.toml.", stream="stderr"
    )
    assert served.get() == "red 0/a"
    old = program.descendants()
    (tmp_path / "everycore.toml").write_text(
        "workers = 2\nenv.COLOUR = 'blue'\nroot-path = '/b'\nstop-delay = 1\nbacklog = 5"
    )
    program.signal(signal.SIGHUP)
    program.expect(
        r"a reload does not change --stop-delay \(everycore.toml: stop-delay\),"
        r" --backlog \(everycore.toml: backlog\); stop the service and start it again",
        stream="stderr",
    )
    program.expect(r"scaling from 1 to 2 \(everycore.toml: workers\)", stream="stderr")
    program.expect("reload 1: all workers are new", stream="stderr")
    assert wait_gone(old) == []
    assert {served.get() for _ in range(4)} == {"blue 1/b"}
    assert len(program.descendants()) == 2
    (tmp_path / "everycore.toml").unlink()
    program.signal(signal.SIGHUP)
    program.expect(
        "the reload is refused, and nothing has changed: --config: everycore.toml no longer exists",
        stream="stderr",
    )
    assert {served.get() for _ in range(4)} == {"blue 1/b"}
    assert program.finish() == 0


@pytest.mark.slow
def test_run_reads_it_too(start_command, tmp_path):
    (tmp_path / "program.py").write_text(f"{ANSWER}\nasyncio.run(main())\n")
    (tmp_path / "everycore.toml").write_text("workers = 1")
    program = start_command([sys.executable, "-m", "everycore", "run", "program.py"])
    program.expect("listens on", stream="stderr")
    old = program.descendants()
    (tmp_path / "everycore.toml").write_text("workers = 2")
    program.signal(signal.SIGHUP)
    program.expect(r"scaling from 1 to 2", stream="stderr")
    program.expect("reload 1: all workers are new", stream="stderr")
    assert wait_gone(old) == []
    assert len(program.descendants()) == 2
    assert program.finish() == 0


def make_certificate(folder, name: str) -> None:
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
        " -keyout key.pem -out cert.pem".split(),
        cwd=folder,
        check=True,
        capture_output=True,
    )


def certificate(port: int) -> str:
    """The certificate that the server shows."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)


@pytest.mark.slow
def test_a_reload_reads_the_certificate_again(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    make_certificate(tmp_path, "one")
    options = ["--ssl-keyfile", "key.pem", "--ssl-certfile", "cert.pem", "--env", "COLOUR=red"]
    program = start_command(command("--workers", "1", *options))
    found = program.expect(r"serving .* on https://127\.0\.0\.1:(\d+)", stream="stderr")
    program.expect("ready: all", stream="stderr")
    port = int(found[1])
    before = certificate(port)
    assert before == (tmp_path / "cert.pem").read_text()
    make_certificate(tmp_path, "two")
    program.signal(signal.SIGHUP)
    program.expect("reload 1: all workers are new", stream="stderr")
    after = certificate(port)
    assert after == (tmp_path / "cert.pem").read_text()
    assert after != before
    (tmp_path / "cert.pem").unlink()
    program.signal(signal.SIGHUP)
    program.expect(
        "the reload is refused, and nothing has changed: --ssl-certfile: cannot read", stream="stderr"
    )
    assert certificate(port) == after
    assert program.finish() == 0


@pytest.mark.slow
def test_a_reload_turns_tls_neither_off_nor_on(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    make_certificate(tmp_path, "one")
    with_tls = "workers = 1\nssl-keyfile = 'key.pem'\nssl-certfile = 'cert.pem'\nenv.COLOUR = 'red'\n"
    file = tmp_path / "everycore.toml"
    file.write_text(with_tls)
    program = start_command(command())
    port = int(program.expect(r"serving .* on https://127\.0\.0\.1:(\d+)", stream="stderr")[1])
    program.expect("ready: all", stream="stderr")
    file.write_text("workers = 1\nenv.COLOUR = 'blue'\n")
    program.signal(signal.SIGHUP)
    program.expect(
        r"the reload is refused, and nothing has changed: --ssl-certfile \(from everycore.toml.*\):"
        " a reload cannot turn HTTPS into HTTP; stop the service and start it again",
        stream="stderr",
    )
    assert certificate(port)
    assert program.finish() == 0
    program = start_command(command())
    program.expect("ready: all", stream="stderr")
    file.write_text(with_tls)
    program.signal(signal.SIGHUP)
    program.expect("cannot turn HTTP into HTTPS", stream="stderr")
    assert program.finish() == 0


@pytest.mark.slow
def test_a_malformed_certificate_is_reported_once(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "cert.pem").write_text("nothing")
    program = start_command(command("--workers", "2", "--ssl-certfile", "cert.pem"))
    assert program.wait() == 3
    said = "everycore: --ssl-certfile: there is no certificate (PEM) in 'cert.pem'"
    assert program.stderr.count(said) == 1
    assert "Traceback" not in program.stderr
