"""`--policy sticky` and `--trust-proxy-protocol`, of `serve` and of `run`."""

import socket

import pytest

from everycore.core.sticky import best
from tests.kit import scaled
from tests.kit.running import run

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

CLIENTS = [f"192.0.2.{number}" for number in range(1, 8)]

#: Names its slot and its client.
APP = """
import os

async def app(scope, receive, send):
    host, port = scope["client"]
    body = f"{os.environ['EVERYCORE_SLOT']} {host} {port}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
"""

#: The same for an unmodified program; its thread answers on a separate port.
PROGRAM = """
import asyncio, os, socket, threading

SLOT = os.environ["EVERYCORE_SLOT"]

async def answer(reader, writer):
    host, port = writer.get_extra_info("peername")
    writer.write(f"{SLOT} {host} {port}".encode())
    writer.close()

def accept(listener):
    while True:
        conn, (host, port) = listener.accept()
        with conn:
            conn.sendall(f"{SLOT} {host} {port}".encode())

async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print("ports", listener.getsockname()[1], server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def said(port, client, request=b"", source="127.0.0.1"):
    """The answer to a client behind the proxy."""
    with socket.create_connection(("127.0.0.1", port), scaled(20), (source, 0)) as sock:
        if client is not None:
            sock.sendall(f"PROXY TCP4 {client} 127.0.0.1 4711 80\r\n".encode())
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_serve_knows_the_client_behind_a_proxy(serve):
    """It does not believe the client's X-Forwarded-For, although it would believe the proxy's."""
    served = serve("--policy", "sticky", "--trust-proxy-protocol", "127.0.0.1", source=APP, workers=3)
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nConnection: close\r\n\r\n"
    for client in CLIENTS:
        answer = said(served.port, client, request)
        own = best(socket.inet_aton(client), range(3))
        assert answer.endswith(b"\r\n%d %s 4711\r\n0\r\n\r\n" % (own, client.encode()))
    assert b"\r\n" in said(served.port, None, request, "127.0.0.9")
    with pytest.raises(ConnectionResetError):
        said(served.port, None, b"PROXX")
    served.program.expect("was closed because of its PROXY header: there is none", stream="stderr")
    assert served.program.finish() == 0


def test_run_does_for_any_program(start_command, tmp_path):
    options = ["--policy", "sticky", "--trust-proxy-protocol", "127.0.0.0/8"]
    running = run(start_command, tmp_path, PROGRAM, workers=3, options=options)
    running.ready()
    ports = running.program.expect(r"^ports (\d+) (\d+)")
    for port in map(int, ports.groups()):
        for client in CLIENTS:
            own = best(socket.inet_aton(client), range(3))
            assert said(port, client).decode() == f"{own} {client} 4711"
    assert running.program.finish() == 0
