"""The examples, run as their docstrings say, and used as a reader would."""

import http.client
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit import Program, scaled, wait_gone
from tests.kit.folders import EXAMPLES
from tests.kit.plugin import StartCommand, StartProgram

PATIENCE = 15.0

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]


@pytest.fixture
def start_example(start_program: StartProgram):
    """`start_example("name.py", *args)`; the argument is port 0 unless given. Two cores."""

    def start(name: str, *args: str) -> Program:
        return start_program(EXAMPLES / name, *(args or ("0",)), env={"PYTHON_CPU_COUNT": "2"})

    return start


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=scaled(PATIENCE))


def ask(file: Any, line: str) -> str:
    file.write(line.encode() + b"\n")
    file.flush()
    answer: bytes = file.readline()
    return answer.decode().rstrip("\n")


def read_all(port: int) -> str:
    """Everything that a connection sends until it ends."""
    with connect(port) as client, client.makefile("rb") as file:
        return file.read().decode()


def fetch(port: int, path: str = "/") -> str:
    """The body of an HTTP reply, over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scaled(PATIENCE))
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def answers(ask_one: Callable[[], str], count: int) -> set[str]:
    """`count` different answers, from as many connections as that takes.

    The number of workers is not enough: one that is late to take a connection misses a turn, as it should.
    """
    seen: set[str] = set()
    for _ in range(50):
        seen.add(ask_one())
        if len(seen) == count:
            return seen
    raise AssertionError(f"after 50 connections only {seen}")


def press_ctrl_c(program: Program) -> None:
    """Press Ctrl-C. The program ends as usual in its language, and nothing is left."""
    workers = program.descendants()
    assert workers
    program.signal_group(signal.SIGINT)
    assert program.wait() == -signal.SIGINT
    assert wait_gone(workers) == []
    if "Traceback" in program.stderr:  # Python's own way to say it
        assert program.stderr.count("Traceback") == 1
        assert program.stderr.endswith("\nKeyboardInterrupt\n")
    else:
        assert program.stderr == ""


class TestEcho:
    def test_every_worker_listens_on_the_same_port_and_echoes(self, start_example) -> None:
        program = start_example("echo.py")
        first, second = (program.expect(r"^listening on 127\.0\.0\.1:(\d+)$")[1] for _ in range(2))
        assert first == second
        for _ in range(4):
            with connect(int(first)) as client, client.makefile("rwb") as file:
                assert ask(file, "hello") == "hello"
                assert ask(file, "again") == "again"
        press_ctrl_c(program)

    def test_a_killed_worker_is_replaced(self, start_example) -> None:
        program = start_example("echo.py")
        port, _ = (program.expect(r"^listening on \S+:(\d+)$")[1] for _ in range(2))
        os.kill(program.descendants()[0], signal.SIGKILL)
        assert program.expect(r"^listening on \S+:(\d+)$")[1] == port
        press_ctrl_c(program)


class TestHttpStreams:
    LISTENS = r"^worker \d listens on http://127\.0\.0\.1:(\d+)$"

    def test_workers_share_the_connections_and_a_connection_stays_with_one(self, start_example) -> None:
        program = start_example("http_streams.py")
        port, _ = (int(program.expect(self.LISTENS)[1]) for _ in range(2))

        def three_requests() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scaled(PATIENCE))
            bodies = set()
            for _ in range(3):
                connection.request("GET", "/some/path")
                bodies.add(connection.getresponse().read().decode())
            connection.close()
            (body,) = bodies
            return body

        for body in answers(three_requests, 2):
            assert re.fullmatch(r"GET /some/path by worker [12], process \d+\n", body)
        press_ctrl_c(program)

    def test_connection_close_is_heeded(self, start_example) -> None:
        program = start_example("http_streams.py")
        port, _ = (int(program.expect(self.LISTENS)[1]) for _ in range(2))
        with connect(port) as client, client.makefile("rwb") as file:
            file.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            file.flush()
            assert file.read().startswith(b"HTTP/1.1 200 OK\r\n")
        press_ctrl_c(program)


class TestMessages:
    def test_send_request_and_broadcast(self, start_example) -> None:
        program = start_example("messages.py")
        port, _ = (int(program.expect(r"^worker \d listens on \S+:(\d+)$")[1]) for _ in range(2))
        with connect(port) as one, connect(port) as two, one.makefile("rwb") as a, two.makefile("rwb") as b:
            assert {ask(a, "hello"), ask(b, "hello")} <= {"hello from worker 1", "hello from worker 2"}
            assert ask(a, "total") == "3"
            assert ask(b, "tell all is well") == "2"
            heard = {program.expect(r"^worker (\d) heard: all is well$")[1] for _ in range(2)}
            assert heard == {"1", "2"}
            assert ask(b, "total") == "5"
        press_ctrl_c(program)


class TestPreloaded:
    def test_all_workers_have_what_one_process_has_made(self, start_example) -> None:
        program = start_example("preloaded.py")
        port, _ = (int(program.expect(r"^worker \d listens on \S+:(\d+)$")[1]) for _ in range(2))

        def square() -> str:
            with connect(port) as client, client.makefile("rwb") as file:
                return ask(file, "7")

        words = [answer.split() for answer in answers(square, 2)]
        assert {found for found, *_ in words} == {"49"}
        [maker] = {maker for *_, maker in words}
        assert maker not in {worker for _, _, worker, *_ in words}
        press_ctrl_c(program)


class TestPassingASocket:
    def test_odd_and_even_visitors(self, start_example) -> None:
        program = start_example("passing_a_socket.py")
        port = int(program.expect(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
        lines = [read_all(port) for _ in range(4)]
        assert lines == [
            "visitor 1, served by worker 1\n",
            "visitor 2, served by worker 2\n",
            "visitor 3, served by worker 1\n",
            "visitor 4, served by worker 2\n",
        ]
        press_ctrl_c(program)


class TestTestingAPrimary:
    def test_its_tests_pass_and_start_no_process(self, start_program: StartProgram) -> None:
        program = start_program(EXAMPLES / "testing_a_primary.py")
        program.expect("^a crashed worker is replaced three times$")
        program.expect("^a worker that never answers is killed and another one asked$")
        program.expect("^a worker that does not leave has twenty seconds$")
        assert program.wait() == 0


class TestRandomPort:
    PORTS = r"^worker (\d): shared port (\d+), own port (\d+)$"

    @pytest.mark.parametrize("given", [True, False], ids=["a base", "base 0"])
    def test_one_port_for_all_and_one_for_each(self, start_example, given: bool) -> None:
        base = base_of_free_ports(2) if given else 0
        program = start_example("random_port.py", str(base))
        found = [tuple(map(int, program.expect(self.PORTS).groups())) for _ in range(2)]
        assert {worker for worker, _, _ in found} == {1, 2}
        assert len({shared for _, shared, _ in found}) == 1
        assert len({own for _, _, own in found}) == 2
        for worker, shared, own in found:
            assert own == base + worker if base else own != shared
            assert {read_all(own) for _ in range(4)} == {f"worker {worker}\n"}
        assert answers(lambda: read_all(found[0][1]), 2) == {"worker 1\n", "worker 2\n"}
        press_ctrl_c(program)


def base_of_free_ports(count: int) -> int:
    """`base + 1` to `base + count` are free, and below the kernel's range for clients, so they stay free.

    Test runs side by side begin at different ports.
    """
    first = 20000 + os.getpid() % 2000 * (count + 1)
    for base in range(first, 32000, count + 1):
        try:
            for offset in range(1, count + 1):
                with socket.create_server(("127.0.0.1", base + offset)):
                    pass
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class TestNodeAndItsPort:
    """One scenario for both programs: it asserts what they have in common."""

    @pytest.fixture(params=["node/cluster.js", "node_port.py"])
    def program(self, request: pytest.FixtureRequest, start_example, start_command: StartCommand) -> Program:
        if request.param.endswith(".py"):
            return start_example(request.param)
        node = shutil.which("node")
        if node is None:
            pytest.fail("node is missing: `make deps` installs it (Debian package nodejs)", pytrace=False)
        return start_command([node, str(EXAMPLES / request.param), "0"])

    def test_they_do_the_same(self, program: Program) -> None:
        listens = r"^worker (\d) listens on http://127\.0\.0\.1:(\d+)$"
        found = [program.expect(listens).groups() for _ in range(2)]
        assert sorted(worker for worker, _ in found) == ["1", "2"]
        port = int(found[0][1])

        assert answers(lambda: fetch(port), 2) == {"worker 1\n", "worker 2\n"}
        program.expect(r"^requests: 2$")

        crashed = fetch(port, "/crash").strip()
        program.expect(rf"^{crashed} exited with 1, voluntary: false$")
        assert program.expect(listens).groups() == ("3", str(port))

        left = fetch(port, "/leave").strip()
        program.expect(rf"^{left} exited with 0, voluntary: true$")

        (remaining,) = {fetch(port) for _ in range(3)}
        assert remaining.strip() in {"worker 1", "worker 2", "worker 3"} - {crashed, left}
        program.expect(r"^requests: \d+$")
        press_ctrl_c(program)
