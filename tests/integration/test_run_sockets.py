"""`everycore run`: a program's own listening socket behaves as it does without a cluster."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from tests.kit import scaled, wait_gone
from tests.kit.running import ask, run

HEAD = """
import errno, os, pickle, select, socket, stat, struct, sys, threading

def attempt(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)

def client(address, family=socket.AF_INET):
    sock = socket.socket(family)
    sock.connect(address)
    return sock

"""

SAME = {
    "types": """
sock = socket.create_server(("127.0.0.1", 0))
port = sock.getsockname()[1]
print(type(sock), sock.family, sock.type, sock.proto, sock.getblocking(), sock.gettimeout())
print(sock.get_inheritable(), stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode))
print(repr(sock).replace(str(port), "PORT").partition("family")[2])
print(attempt(sock.getpeername))
""",
    "type by number": """
sock = socket.create_server(("127.0.0.1", 0))
other = socket.socket(fileno=os.dup(sock.fileno()))
print(other.family, other.type, other.proto, other.getsockname() == sock.getsockname())
""",
    "options": """
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30000)
sock.bind(("127.0.0.1", 0))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
sock.getsockname()
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
sock.listen()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 7))
for level, name in [(socket.SOL_SOCKET, "SO_ACCEPTCONN"), (socket.SOL_SOCKET, "SO_REUSEADDR"),
                    (socket.SOL_SOCKET, "SO_RCVBUF"), (socket.SOL_SOCKET, "SO_KEEPALIVE"),
                    (socket.SOL_SOCKET, "SO_TYPE"), (socket.SOL_SOCKET, "SO_DOMAIN"),
                    (socket.SOL_SOCKET, "SO_PROTOCOL"), (socket.SOL_SOCKET, "SO_ERROR"),
                    (socket.IPPROTO_TCP, "TCP_NODELAY")]:
    print(name, sock.getsockopt(level, getattr(socket, name)))
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
print(attempt(sock.setsockopt, socket.SOL_SOCKET, 9999, 1), attempt(sock.getsockopt, socket.SOL_SOCKET, 9999))
# Accepted connections inherit them (tcp(7)).
peer = client(sock.getsockname())
conn, address = sock.accept()
print(conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
print(conn.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
print(type(conn), conn.family, conn.type, conn.proto, conn.gettimeout(), address == peer.getsockname())
print(conn.getsockname() == sock.getsockname(), conn.get_inheritable())
""",
    "wrong arguments": """
sock = socket.socket()
for address in [None, "x", ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 65536), ("127.0.0.1", -1),
                ("no.such.host.invalid", 80), ("192.0.2.1", 80), ("192.0.2.1", 0), ("127.0.0.1", 80, 1)]:
    print(address, attempt(sock.bind, address))
print(attempt(sock.accept), attempt(sock.listen, "x"), attempt(sock.listen, 1 << 40))
sock.bind(("127.0.0.1", 0))
print(attempt(sock.bind, ("127.0.0.1", 0)), attempt(sock.accept))
sock.listen(-5)
sock.listen()
print(attempt(sock.bind, ("127.0.0.1", 0)))
sock.close()
print(attempt(sock.bind, ("127.0.0.1", 0)), attempt(sock.listen), attempt(sock.accept))
print(attempt(sock.getsockname), attempt(sock.getpeername), attempt(sock.getsockopt, 1, 2))
unix = socket.socket(socket.AF_UNIX)
for path in ["no/such/folder", "x" * 200, 5]:
    print(path, attempt(unix.bind, path))
""",
    "a port of one's own twice": """
one, two = socket.socket(), socket.socket()
one.bind(("127.0.0.1", 0))
address = one.getsockname()
print(attempt(two.bind, address))
one.listen()
print(attempt(two.bind, address))
one.close()
two.bind(address)
two.listen()
print(two.getsockname() == address)
two.close()
print(attempt(client, address))
""",
    "bound to the same with SO_REUSEADDR": """
one, two = socket.socket(), socket.socket()
one.bind(("127.0.0.1", 0))
two.bind(("127.0.0.1", 0))
print(one.getsockname()[1] != two.getsockname()[1])
""",
    "a client's address": """
server = socket.create_server(("127.0.0.1", 0))
sock = socket.socket()
sock.bind(("127.0.0.1", 0))
sock.connect(server.getsockname())
print(server.accept()[1] == sock.getsockname())
sock = socket.socket()
sock.bind(("127.0.0.1", 0))
address = sock.getsockname()
print(attempt(sock.connect, server.getsockname()), sock.getsockname() == address)
print(server.accept()[1] == address)
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
sock.bind(("127.0.0.1", 0))
sock.setblocking(False)
print(sock.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS), sock.gettimeout())
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
with socket.create_connection(server.getsockname(), source_address=("127.0.0.1", 0)) as sock:
    print(server.accept() is not None)
""",
    "time-outs": """
sock = socket.create_server(("127.0.0.1", 0))
sock.settimeout(0.001)
print(attempt(sock.accept), sock.gettimeout(), sock.getblocking())
sock.setblocking(False)
print(attempt(sock.accept), sock.gettimeout(), sock.getblocking())
print(select.select([sock], [], [], 0))
peer = client(sock.getsockname())
print(select.select([sock], [], []) == ([sock], [], []))
conn, _ = sock.accept()
print(conn.gettimeout(), attempt(sock.accept))
socket.setdefaulttimeout(5)
peer = client(sock.getsockname())
select.select([sock], [], [])
print(sock.accept()[0].gettimeout())
""",
    "shutdown wakes who waits": """
sock = socket.create_server(("127.0.0.1", 0))
waiting = threading.Event()
found = []
def wait():
    waiting.set()
    found.append(attempt(sock.accept))
thread = threading.Thread(target=wait)
thread.start()
waiting.wait()
sock.shutdown(socket.SHUT_RDWR)
thread.join()
print(found, attempt(client, sock.getsockname())[0])
""",
    "copies": """
sock = socket.create_server(("127.0.0.1", 0))
address = sock.getsockname()
copies = [sock.dup(), socket.fromfd(sock.fileno(), sock.family, sock.type)]
copies.append(socket.socket(fileno=os.dup(sock.fileno())))
sock.close()
for copy in copies:
    peer = client(address)
    print(copy.accept()[1] == peer.getsockname())
    copy.close()
print(attempt(client, address)[0])
""",
    "thrown away": """
import gc, warnings
warnings.simplefilter("ignore")
sock = socket.create_server(("127.0.0.1", 0))
address = sock.getsockname()
del sock
gc.collect()
again = socket.socket()
again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
again.bind(address)
again.listen()
print(again.getsockname() == address)
""",
    "a number used again": """
sock = socket.create_server(("127.0.0.1", 0))
fd = sock.fileno()
os.close(sock.detach())
other = socket.socket()
print(other.fileno() == fd, other.getsockname(), other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
""",
    "unix": """
sock = socket.socket(socket.AF_UNIX)
os.umask(0o077)
sock.bind("name")
print(sock.getsockname(), stat.filemode(os.stat("name").st_mode), attempt(client, "name", socket.AF_UNIX))
sock.listen()
os.chmod("name", 0o660)
print(stat.filemode(os.stat("name").st_mode))
peer = socket.socket(socket.AF_UNIX)
peer.bind("client")
peer.connect("name")
conn, address = sock.accept()
print(address, conn.getsockname(), conn.getpeername(), peer.getpeername())
print(attempt(socket.socket(socket.AF_UNIX).bind, "name"))
sock.close()
print(os.path.exists("name"), attempt(client, "name", socket.AF_UNIX))
os.unlink("name"); os.unlink("client")
again = socket.socket(socket.AF_UNIX)
again.bind(os.path.abspath("name").encode())
again.listen()
print(again.getsockname() == os.path.abspath("name"))
again.close()
os.unlink("name")
""",
    "abstract": r"""
sock = socket.socket(socket.AF_UNIX)
name = "\\0everycore-%d" % os.getpid()
sock.bind(name)
sock.listen()
print(sock.getsockname() == name.encode(), type(sock.getsockname()))
peer = client(name, socket.AF_UNIX)
print(sock.accept()[1])
""",
    "datagrams": """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
port = sock.getsockname()[1]
sock.close()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", port))
print(sock.getsockname() == ("127.0.0.1", port), sock.type, sock.gettimeout())
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.connect(sock.getsockname())
peer.send(b"hello")
data, address = sock.recvfrom(100)
print(data, address == peer.getsockname())
sock.sendto(b"back", address)
print(peer.recv(100))
sock.settimeout(0.001)
print(attempt(sock.recv, 1), sock.gettimeout())
sock.connect(peer.getsockname())
sock.send(b"again")
print(peer.recv(100), sock.getsockname() == ("127.0.0.1", port))
""",
    "children": """
sock = socket.create_server(("127.0.0.1", 0))
address = sock.getsockname()
pid = os.fork()
if pid == 0:
    sock.close()
    other = socket.create_server(("127.0.0.1", 0))
    peer = client(other.getsockname())
    other.accept()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
peer = client(address)
print(sock.accept()[1] == peer.getsockname())
""",
    "names": """
from socket import socket as imported
import _socket, ssl
print(isinstance(imported(), socket.socket), socket.socket.__mro__, issubclass(ssl.SSLSocket, imported))
print(socket.socket.bind.__name__, socket.SocketType is _socket.socket)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("script", SAME, ids=[name.replace(" ", "_") for name in SAME])
def test_what_a_program_sees_is_what_it_sees_alone(start_command, tmp_path, script, policy):
    if (script, policy) == ("shutdown wakes who waits", "shared"):
        pytest.skip("a shared listener is not to be shut down, so nobody is woken")
    # The end is not compared: a program that has listened is started again.
    source = HEAD + SAME[script] + "print('the end', flush=True)\nthreading.Event().wait()\n"
    running = run(start_command, tmp_path, source, workers=1, options=["--policy", policy])
    running.program.expect("the end")
    alone = subprocess.run(
        [sys.executable, "-c", HEAD + SAME[script]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=scaled(30),
        check=True,
    )
    (tmp_path / "server.py").unlink()
    assert running.program.stdout == alone.stdout + "the end\n"


@pytest.mark.slow
def test_a_socket_is_described_without_asking_the_primary(start_command, tmp_path):
    """Python describes each unclosed socket, even at the very end, when the primary answers no more."""
    source = """
        import os, socket, threading
        from everycore.worker.listening.link import Link
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        request, Link.request = Link.request, None
        os.write(1, b"described %s\\n" % repr(sock).encode())
        Link.request = request
        os.write(1, b"described %s\\n" % repr((sock, sock.getsockname())).encode())
        threading.Event().wait()
    """
    running = run(start_command, tmp_path, source, workers=1)
    running.program.expect(r"described <socket.socket fd=\d+, family=\S+, type=\S+, proto=0, laddr=.*', 0\)>")
    found = running.program.expect(r"described .*laddr=(\S+, \d+\))>, (\S+, \d+\))")
    assert found[1] == found[2]


@pytest.mark.slow
def test_the_nth_free_port_is_the_same_for_all(start_command, tmp_path):
    source = """
        import os, socket, threading
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        os.write(1, b"ports %d %d\\n" % tuple(sock.getsockname()[1] for sock in socks))  # a line, undivided
        threading.Event().wait()
    """
    running = run(start_command, tmp_path, source, workers=3)
    lines = {running.program.expect("ports (.*)")[1] for _ in range(3)}
    assert len(lines) == 1
    assert len(set(lines.pop().split())) == 2


@pytest.mark.slow
def test_datagrams_reach_every_worker(start_command, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = """
        import os, socket, sys
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", int(sys.argv[1])))
        while True:
            _, address = sock.recvfrom(100)
            sock.sendto(b"%d" % os.getpid(), address)
    """
    running = run(start_command, tmp_path, source, str(port))
    assert running.listens() == f"127.0.0.1:{port}"
    running.ready()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(scaled(20))
        sock.connect(("127.0.0.1", port))
        sock.send(b"hello")
        assert int(sock.recv(100)) in running.program.descendants()
    assert running.program.finish() == 0


@pytest.mark.slow
def test_the_file_of_a_unix_socket_survives_programs_that_remove_it(start_command, tmp_path):
    # Each worker removes the file before it binds, as servers do, and one removes it as it ends. No other
    # sees it gone.
    source = """
        import os, pathlib, socket
        pathlib.Path("socket").unlink(missing_ok=True)
        pathlib.Path("other").touch()
        os.remove("other")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("socket")
        sock.listen()
        while True:
            conn, _ = sock.accept()
            if conn.recv(100) == b"die\\n":
                sock.close()
                os.unlink("socket")
                os.write(1, b"kept %d\\n" % os.path.exists("socket"))
                os._exit(1)
            conn.sendall(b"%d" % os.getpid())
            conn.close()
    """
    path = str(tmp_path / "socket")
    running = run(start_command, tmp_path, source)
    running.ready()
    running.everybody_answers(path)
    assert ask(path, request="die") == ""
    running.program.expect("^kept 1")
    running.program.expect("ended: exit status 1", stream="stderr")
    seen: set[str] = set()
    while len(seen) < 2:
        seen.add(ask(path))
    assert running.program.finish() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.py"]


@pytest.mark.slow
def test_each_worker_removes_the_file_of_its_unix_socket_as_it_ends(start_command, tmp_path):
    source = """
        import os, signal, socket
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("socket")
        sock.listen()
        signal.sigwait([signal.SIGTERM])
        sock.close()
        os.unlink("socket")  # alone, it is there
        os.write(1, b"removed it\\n")
    """
    running = run(start_command, tmp_path, source)
    running.ready()
    assert running.program.finish() == 0
    assert running.program.stdout.count("removed it") == 2
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
def test_what_a_killed_primary_left_beside_a_unix_socket_is_removed_by_the_next(start_command, tmp_path):
    source = """
        import os, socket
        if os.path.exists("socket"):
            os.unlink("socket")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket")
            sock.listen()
            while True:
                sock.accept()[0].close()
    """
    running = run(start_command, tmp_path, source)
    running.ready()
    workers = running.program.descendants()
    running.program.signal(signal.SIGKILL)
    running.program.wait()
    wait_gone(workers)
    names = {entry.name for entry in tmp_path.iterdir()} - {"server.py"}
    assert len(names) == 2, "the socket, and its second name"
    running = run(start_command, tmp_path, source)
    running.ready()
    assert running.program.finish() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.py"]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
def test_an_interrupt_in_accept_is_nothing_else(start_command, tmp_path, policy):
    source = """
        import socket
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.accept()
    """
    running = run(start_command, tmp_path, source, workers=1, options=["--policy", policy])
    running.ready()
    (worker,) = running.program.descendants()
    os.kill(worker, signal.SIGINT)
    running.program.expect("KeyboardInterrupt", stream="stderr")
    running.program.finish()
    assert "BlockingIOError" not in running.program.stderr


@pytest.mark.slow
def test_preforked_children_of_a_worker_end_with_it(start_command, tmp_path):
    source = """
        import os, signal, socket, sys
        sock = socket.create_server(("127.0.0.1", 0))
        children = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                while True:
                    conn, _ = sock.accept()
                    conn.recv(100)
                    conn.sendall(b"%d" % os.getppid())
                    conn.close()
            children.append(pid)
        def stop(*_):
            for pid in children:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        while True:
            signal.pause()
    """
    running = run(start_command, tmp_path, source)
    running.everybody_answers(running.port())
    assert running.program.finish() == 0


def test_sources_are_well_formed():
    for script in SAME.values():
        compile(HEAD + textwrap.dedent(script), "script", "exec")
