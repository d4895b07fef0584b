"""`everycore run`: unusual ways to listen still work, or are refused in one sentence."""

import os
import signal
import socket

import pytest

from tests.kit import scaled, wait_gone
from tests.kit.ports import free_port
from tests.kit.running import Running, ask, run

HEAD = """
import concurrent.futures, multiprocessing, os, select, socket, subprocess, sys, threading

def answer(conn):
    with conn:
        conn.recv(100)
        conn.sendall(b"%d" % os.getpid())

def serve(sock):
    while True:
        answer(sock.accept()[0])

"""

both_policies = pytest.mark.parametrize("policy", ["round_robin", "shared"])

EARLY = {
    "registered before bind": """
sock = socket.socket()
sock.setblocking(False)
epoll = select.epoll()
epoll.register(sock.fileno(), select.EPOLLIN)
sock.bind(("127.0.0.1", 0))
sock.listen()
while True:
    epoll.poll()
    conn = sock.accept()[0]  # alone, it would never raise BlockingIOError
    conn.setblocking(True)
    answer(conn)
""",
    "copied before bind": """
sock = socket.socket()
copy = sock.dup()
sock.bind(("127.0.0.1", 0))
sock.listen()
sock.close()
serve(copy)
""",
    "asked whether it is free": """
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
    sys.exit("somebody is there")
except ConnectionRefusedError:
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1]))))
""",
}


@pytest.mark.slow
@both_policies
@pytest.mark.parametrize("program", EARLY, ids=[name.replace(" ", "_") for name in EARLY])
def test_what_a_program_does_before_it_listens(start_command, tmp_path, program, policy):
    source = HEAD + EARLY[program]
    running = run(start_command, tmp_path, source, str(free_port()), options=["--policy", policy])
    port = running.port()
    running.everybody_answers(port)
    assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
def test_plain_programs_take_turns_under_the_policy_shared(start_command, tmp_path):
    source = HEAD + EARLY["registered before bind"]
    running = run(start_command, tmp_path, source, options=["--policy", "shared"])
    port = running.port()
    running.everybody_answers(port)
    answers = [ask(port) for _ in range(20)]
    assert {answers.count(pid) for pid in set(answers)} == {10}


# Listeners that everycore does not see

UNSEEN = """
import _socket, ctypes, os, socket, sys

sock = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # C's: its methods are not ours
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen()
while True:
    conn = ctypes.CDLL(None).accept(sock.fileno(), None, None)
    os.read(conn, 100)
    os.write(conn, b"%d" % os.getpid())
    os.close(conn)
"""


ASKS_FIRST = """
import socket, sys

with socket.socket() as probe:
    if probe.connect_ex(("localhost", int(sys.argv[1]))) == 0:
        sys.exit("somebody is there")
"""


@pytest.mark.slow
def test_one_that_listens_in_c_is_ready_replaced_and_reloaded(start_command, tmp_path):
    """It asks first whether its port is free: a replacement does so while the other worker serves there."""
    port = free_port()
    running = run(start_command, tmp_path, ASKS_FIRST + UNSEEN, str(port))
    assert running.program.expect(r"listens on tcp://127.0.0.1:(\d+) by itself", stream="stderr")[1] == str(
        port
    )
    running.ready()
    first = int(ask(port))
    os.kill(first, signal.SIGKILL)
    running.program.expect("its slot is filled again", stream="stderr")
    seen = running.everybody_answers(port)
    assert str(first) not in seen
    running.program.signal(signal.SIGHUP)
    running.program.expect("reload 1: all workers are new", stream="stderr")
    assert (
        wait_gone(map(int, seen)) == []
    )  # until then the kernel gives them some connections, and resets those
    assert not seen & running.everybody_answers(port)
    assert running.program.finish() == 0


SHARED_BY_A_CHILD = """
import os, signal, subprocess, sys

child = subprocess.Popen([sys.executable, sys.argv[2], sys.argv[1]])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(max(child.wait(), 0))
"""


@pytest.mark.slow
def test_one_whose_child_listens_as_those_of_other_workers_may_is_ready(start_command, tmp_path):
    child, port = tmp_path / "child.py", free_port()
    child.write_text(UNSEEN)
    running = run(start_command, tmp_path, SHARED_BY_A_CHILD, str(port), str(child))
    running.program.expect(rf"listens on tcp://127.0.0.1:{port} by itself", stream="stderr")
    running.ready()
    running.everybody_answers(port)
    assert running.program.finish() == 0


@pytest.mark.slow
def test_where_another_program_listens_is_told_when_it_cannot_start_twice(start_command, tmp_path):
    """A launcher: the program that it starts in the second worker finds the address in use."""
    child, port = tmp_path / "child.py", free_port()
    child.write_text(f"{HEAD}\nserve(socket.create_server(('127.0.0.1', int(sys.argv[1]))))")
    running = run(start_command, tmp_path, SHARED_BY_A_CHILD, str(port), str(child))
    assert running.program.wait() == 3
    last = running.program.stderr.splitlines()[-1]
    assert f"listens on tcp://127.0.0.1:{port}" in last
    assert last.endswith(f"everycore run {child} {port}")


OWN_DATAGRAMS = """
import asyncio, os, sys

class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(b"%d" % os.getpid(), address)

async def main():
    address = "127.0.0.1", int(sys.argv[1])
    await asyncio.get_running_loop().create_datagram_endpoint(Answer, address, reuse_port=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.ci_only)])
def test_datagrams_of_each_workers_own_make_it_ready_and_a_client_stays(start_command, tmp_path, loop):
    port = free_port()
    running = run(start_command, tmp_path, OWN_DATAGRAMS, str(port), options=["--loop", loop])
    running.ready()
    answers: dict[int, set[bytes]] = {}
    while len(set().union(*answers.values())) < running.workers:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(scaled(20))
            client.connect(("127.0.0.1", port))
            for _ in range(3):
                client.send(b"who")
                answers.setdefault(client.getsockname()[1], set()).add(client.recv(100))
    assert all(len(workers) == 1 for workers in answers.values())
    assert running.program.finish() == 0


# The program's own processes

HANDING = {
    "pickled": """
if __name__ == "__main__":
    sock = socket.create_server(("127.0.0.1", 0))
    multiprocessing.get_context("spawn").Process(target=serve, args=(sock,)).start()
""",
    "queued": """
sock = socket.create_server(("127.0.0.1", 0))
with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    pool.submit(serve, sock).result()  # pickled in a thread: the main one waits for ever
""",
    "sent": """
sock = socket.create_server(("127.0.0.1", 0))
near, far = socket.socketpair()
socket.send_fds(near, [b"x"], [sock.fileno()])
""",
    "passed": """
sock = socket.create_server(("127.0.0.1", 0))
subprocess.run([sys.executable, "-c", ""], pass_fds=[sock.fileno()])
""",
    "inherited": """
sock = socket.create_server(("127.0.0.1", 0))
sock.set_inheritable(True)
subprocess.run([sys.executable, "-c", ""], close_fds=False)
""",
    "started again": """
if "AGAIN" not in os.environ:
    subprocess.run([sys.executable, *sys.argv], env={**os.environ, "AGAIN": "1"})
else:
    serve(socket.create_server(("127.0.0.1", 0)))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("program", HANDING, ids=[name.replace(" ", "_") for name in HANDING])
def test_one_that_lets_another_process_listen_is_refused(start_command, tmp_path, program):
    running = run(start_command, tmp_path, HEAD + HANDING[program])
    assert running.program.wait() == 3
    lines = [line for line in running.program.stderr.splitlines() if "this program starts processes" in line]
    assert len(lines) == 1
    assert "--workers and --reload" in lines[0]
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
def test_a_process_that_has_nothing_to_do_with_listening_is_started_as_ever(start_command, tmp_path):
    source = (
        HEAD
        + """
def double(number):
    return 2 * number

if __name__ == "__main__":
    sock = socket.create_server(("127.0.0.1", 0))
    subprocess.run([sys.executable, "-c", "import os; os.fstat(%d)" % sys.stderr.fileno()], check=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(double, [2]) == [4]
    near, far = socket.socketpair()
    child = multiprocessing.get_context("spawn").Process(target=answer, args=(far,))
    child.start()
    near.send(b"hello")
    print("child", near.recv(100).decode(), flush=True)
    child.join()
    serve(sock)
"""
    )
    running = run(start_command, tmp_path, source, workers=1)
    running.program.expect(r"child \d+", timeout=scaled(30))
    running.everybody_answers(running.port())
    assert running.program.finish() == 0


@pytest.mark.slow
def test_the_number_of_workers_is_not_the_programs_as_well(start_command, tmp_path):
    source = 'import os; print("processes", os.environ["WEB_CONCURRENCY"], flush=True)'
    running = run(start_command, tmp_path, source, workers=1, env={"WEB_CONCURRENCY": "7"})
    running.program.expect("processes 1$")
    assert running.program.wait() == 0


# Addresses


IN_USE = {
    "by the program": """
try:
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1]))))
except OSError:
    print("no port for me", file=sys.stderr)
    sys.exit(1)
""",
    "by Python": """
sock = socket.socket()
sock.bind(("127.0.0.1", int(sys.argv[1])))  # of which Python says no address
""",
}


@pytest.mark.ci_only
@pytest.mark.slow
@pytest.mark.parametrize("program", IN_USE, ids=[name.replace(" ", "_") for name in IN_USE])
def test_an_address_in_use_is_told_once_and_named(start_command, tmp_path, program):
    source = HEAD + IN_USE[program]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        running = run(start_command, tmp_path, source, str(port), workers=3)
        assert running.program.wait() == 3
    stderr = running.program.stderr
    assert stderr.count("no port for me" if program == "by the program" else "Traceback") == 1
    assert stderr.endswith(f"127.0.0.1:{port} is in use by another process\n")


def opens_for_one_client(extra: str = "") -> str:
    """A program that opens a port for each client, as FTP does; it names its process there, and closes."""
    return f"""{HEAD}
{extra}
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    with sock.accept()[0] as conn:
        conn.recv(100)
        with socket.create_server(("127.0.0.1", 0)) as data:
            conn.sendall(b"%d %d" % (data.getsockname()[1], os.getpid()))
            conn.shutdown(socket.SHUT_WR)
            answer(data.accept()[0])
"""


@pytest.mark.slow
@both_policies
def test_a_port_that_is_opened_for_one_client_is_the_workers_own(start_command, tmp_path, policy):
    options = ["--policy", policy]
    running = run(start_command, tmp_path, opens_for_one_client(), str(free_port()), options=options)
    port = running.port()
    for _ in range(2):
        (one, first), (other, second) = (ask(port).split() for _ in range(2))
        assert first != second
        assert one != other
        assert ask(int(other)) == second
        assert ask(int(one)) == first


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["shared", "own"])
def test_port_zero_is_whose_one_says(start_command, tmp_path, whose):
    source = HEAD + 'sock = socket.create_server(("127.0.0.1", 0))\n'
    source += 'os.write(1, b"port %d\\n" % sock.getsockname()[1])\nserve(sock)\n'
    running = run(start_command, tmp_path, source, options=["--port-zero", whose])
    ports = {running.program.expect(r"port (\d+)")[1] for _ in range(2)}
    assert len(ports) == (1 if whose == "shared" else 2)
    running.ready()
    if whose == "own":
        assert {ask(int(port)) for port in ports} != {""}


@pytest.mark.slow
def test_a_free_port_that_is_only_asked_for_is_another_one_for_each_worker(start_command, tmp_path):
    source = (
        HEAD
        + """
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
helper = socket.socket()
helper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
os.write(1, b"helper %d\\n" % port)
serve(socket.create_server(("127.0.0.1", 0)))
"""
    )
    running = run(start_command, tmp_path, source, workers=3)
    helpers = {running.program.expect(r"helper (\d+)")[1] for _ in range(3)}
    assert len(helpers) == 3
    running.everybody_answers(running.port())


@pytest.mark.slow
@both_policies
def test_connections_wait_while_no_worker_lives(start_command, tmp_path, policy):
    source = (
        HEAD
        + """
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn = sock.accept()[0]
    last = conn.recv(100) == b"end\\n"
    if last:
        sock.close()  # as a program does at its end, before all else
    conn.sendall(b"%d" % os.getpid())
    conn.close()
    if last:
        sys.exit(1)
"""
    )
    options = ["--policy", policy]
    running: Running = run(start_command, tmp_path, source, str(free_port()), workers=1, options=options)
    port = running.port()
    before = ask(port, request="end")
    after = ask(port)
    assert after not in ("", before)
