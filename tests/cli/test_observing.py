"""`--metrics` and `--min-ready`, as typed: a service with its observer, and wrong values."""

import contextlib
import http.client
import os
import re
import signal
import socket
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from everycore.cli.main import main
from tests.kit import scaled, wait_gone
from tests.kit.log_lines import wait_until
from tests.kit.others import UID, folder_for_others, python_for_others
from tests.kit.serving import metrics_port, observer_pid


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scaled(20))
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(port):
    status, text = ask(port, "/metrics")
    assert status == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
@pytest.mark.limit(90)
def test_a_service_and_its_observer(serve):
    served = serve("--metrics", "127.0.0.1:0", "--min-ready", "2", "--stop-delay", "2", "--control", "off")
    program = served.program
    port = metrics_port(program)
    assert ask(port, "/ready") == (200, "ready: 2 of 2 workers are ready\n")
    assert ask(port, "/live") == (200, f"live: main:app (pid {program.pid})\n")
    for _ in range(4):
        served.get()
    found = samples(port)
    assert found["everycore_workers", ("state", "ready")] == 2
    listener = ("listener", f"127.0.0.1:{served.port}")
    assert found["everycore_listener_connections_total", listener, ("outcome", "accepted")] == 4
    assert found["everycore_hand_over_wait_seconds_count",] == 4
    # The observer is killed: the next one answers clients that connect meanwhile.
    first = observer_pid(program.pid)
    os.kill(first, signal.SIGTERM)  # it ends with the service alone
    os.kill(first, signal.SIGKILL)
    assert not wait_gone([first])
    assert ask(port, "/ready")[0] == 200
    assert observer_pid(program.pid) != first
    program.signal(signal.SIGTERM)
    program.expect("stopping in 2 s", stream="stderr")
    # The observer's latest answer is valid for 20 ms.
    is_told = (503, "not ready: the service is being stopped\n")
    wait_until(lambda: ask(port, "/ready") == is_told, "/ready fails while the service still serves")
    served.get()  # still served
    last = observer_pid(program.pid)
    assert program.wait() == 0
    assert not wait_gone([last])
    assert "the observer ended: killed by SIGKILL; it is started again in 0.1 s" in program.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
def test_a_program_has_one_too_on_a_unix_socket(start_command, tmp_path):
    (tmp_path / "server.py").write_text(PROGRAM)
    words = [
        sys.executable,
        "-P",
        "-m",
        "everycore",
        "run",
        "-w",
        "1",
        "--metrics",
        f"unix:{tmp_path}/m.sock",
    ]
    program = start_command([*words, str(tmp_path / "server.py")])
    program.expect("listens on", stream="stderr")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(scaled(20))
        client.connect(f"{tmp_path}/m.sock")
        client.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(f"live: {tmp_path}/server.py (pid {program.pid})\n".encode())
    assert program.finish() == 0
    assert not (tmp_path / "m.sock").exists()


PROGRAM = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    while True:
        server.accept()[0].close()
"""

pure = pytest.mark.usefixtures("no_foreign_settings")


@pure
@pytest.mark.parametrize("module", ["prometheus_client", "uvicorn"])
def test_what_is_missing_is_said_before_anything_is_bound(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.py").write_text("")
    assert main(["run", "--metrics", "9100", "x.py"]) == 2
    name = module.replace("_", "-")
    assert (
        f"everycore: --metrics: needs {name}: pip install 'everycore[metrics]'\n" in capsys.readouterr().err
    )


@pure
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--min-ready", "2"], "--min-ready: needs --metrics too, the address that answers /ready"),
        (
            ["--metrics", "9100", "--min-ready", "3", "-w", "2"],
            "--min-ready: is 3, more than the number of workers: 2 (-w)",
        ),
        (
            ["--metrics", "9100", "--min-ready", "2", "--reload"],
            "--min-ready: is 2, more than the number of workers: 1",
        ),
        (["--metrics", "localhost"], "--metrics: must be HOST:PORT, [V6]:PORT, PORT or unix:PATH, not"),
        (["--metrics", "fd://3"], "--metrics: must be HOST:PORT, [V6]:PORT, PORT or unix:PATH, not"),
        (["--metrics", "127.0.0.1:99999"], "--metrics: the port must be between 0 and 65535"),
        (["--metrics", "unix:/no/such/m"], "--metrics: cannot listen on unix:/no/such/m: there is no folder"),
        (["--metrics", "192.0.2.1:1"], "--metrics: cannot listen on "),
        (["--bind", ":80", "--metrics", ":80"], "--metrics: names 0.0.0.0:80, which is the application's"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, says, capsys, tmp_path):
    assert main(["serve", *words, "main:app"]) == 2
    said = re.sub(r"^\d.*\n", "", capsys.readouterr().err, flags=re.MULTILINE)
    assert said.startswith(f"everycore: {says}")


@pure
def test_granians_switch_takes_the_application_for_an_address(capsys):
    assert main(["serve", "--metrics", "main:app"]) == 2
    assert capsys.readouterr().err.startswith("everycore: --metrics: must be HOST:PORT, [V6]:PORT, PORT or")


@pure
def test_a_host_that_there_is_not(monkeypatch, capsys, tmp_path):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (tmp_path / "x.py").write_text("")
    assert main(["run", "--metrics", "no.such.host:1", "x.py"]) == 2
    problem = "cannot listen on no.such.host:1: name or service not known"
    assert f"everycore: --metrics: {problem}\n" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.limit(90)
def test_it_is_the_user_that_workers_are(start_command, tmp_path):
    python, env = python_for_others()
    with folder_for_others() as place:
        (place / "server.py").write_text(PROGRAM)
        words = ["-P", "-m", "everycore", "run", "-w", "1", "--user", str(UID), "--metrics", "127.0.0.1:0"]
        program = start_command(
            [python, *words, "--permit", "127.0.0.1:0", str(place / "server.py")], env=env
        )
        program.expect("listens on", stream="stderr")
        found = samples(metrics_port(program))
        with open(f"/proc/{observer_pid(program.pid)}/status", encoding="utf-8") as file:
            status = dict(line.split(":", 1) for line in file)
        assert status["Uid"].split() == [str(UID)] * 4
        assert (int(status["CapEff"], 16), status["NoNewPrivs"].strip()) == (0, "1")
        assert any(name == "everycore_worker_proportional_memory_bytes" for name, *_ in found)
        assert program.finish() == 0
