"""`everycore run`: a stop waits for a connection, whatever the program does with it."""

import contextlib
import os
import select
import socket
import ssl

import pytest

from tests.kit import scaled
from tests.kit.ports import free_port
from tests.kit.running import make_certificate, run

HEAD = """
import asyncio, os, socket, ssl, sys, threading

def serve(number):
    while os.read(number, 100):
        os.write(number, b"%d\\n" % os.getpid())
    os.close(number)

def begin(number):
    threading.Thread(target=serve, args=(number,), daemon=True).start()

def listen(*options):
    sock = socket.socket()
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    sock.listen()
    return sock

"""

PROGRAMS = {
    "detached": """
sock = listen()
while True:
    begin(sock.accept()[0].detach())
""",
    "copied": """
sock = listen()
while True:
    with sock.accept()[0] as conn:
        begin(os.dup(conn.fileno()))
""",
    "accepted as a number": """
sock = listen()
while True:
    begin(sock._accept()[0])
""",
    "of multiprocessing": """
from multiprocessing.connection import Listener
listener = Listener(("127.0.0.1", int(sys.argv[1])))
kept = []
while True:
    kept.append(listener.accept())
    begin(os.dup(kept[-1].fileno()))
    kept.pop().close()
""",
    "TLS": """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])

def serve_tls(conn):
    with context.wrap_socket(conn, server_side=True) as conn:
        while conn.recv(100):
            conn.send(b"%d\\n" % os.getpid())

sock = listen()
while True:
    threading.Thread(target=serve_tls, args=(sock.accept()[0],), daemon=True).start()
""",
    "of a listener of its own": """
sock = listen(socket.SO_REUSEPORT)
while True:
    begin(sock.accept()[0].detach())
""",
    "of a server of its own": """
async def serve(reader, writer):
    async for line in reader:
        writer.write(b"%d\\n" % os.getpid())
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), reuse_port=True)
    await server.serve_forever()

asyncio.run(main())
""",
}
PROGRAMS["of a server of its own on uvloop"] = PROGRAMS["of a server of its own"].replace(
    "asyncio.run", "import uvloop; uvloop.run"
)


def ask(client):
    """The process that answers."""
    client.sendall(b"who\n")
    return int(client.recv(100))


def wait_for_end(pid):
    """Wait until the process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(scaled(20) * 1000), "it did not end"
    finally:
        os.close(pidfd)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("program", PROGRAMS, ids=[name.replace(" ", "_") for name in PROGRAMS])
def test_a_stop_waits_for_a_connection(start_command, tmp_path, program, policy):
    if "its own" in program and policy == "shared":
        pytest.skip("a listener of the program's own has no policy")
    port, certificate = free_port(), make_certificate(tmp_path)
    source = HEAD + PROGRAMS[program]
    options = ["--policy", policy, "--grace", "60"]
    running = run(start_command, tmp_path, source, str(port), certificate, options=options)
    running.ready()
    with contextlib.ExitStack() as stack:
        clients: dict[int, socket.socket] = {}
        while len(clients) < 2:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), scaled(20)))
            if program == "TLS":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                client = stack.enter_context(context.wrap_socket(client))
            pid = ask(client)
            if pid in clients:
                client.close()
            else:
                clients[pid] = client
        (idle, one), (busy, other) = clients.items()
        one.close()
        running.program.signal()
        wait_for_end(idle)  # it was told together with the other
        assert ask(other) == busy
    assert running.program.wait() == 0
