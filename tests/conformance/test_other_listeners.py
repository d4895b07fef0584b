"""Listeners of other kinds: unix sockets, sockets from elsewhere, TLS."""

import asyncio
import json
import os
import socket
import ssl
import stat

import pytest

from everycore import Cluster, ExitStatus, Listening, Settings
from tests.conformance.node import node
from tests.kit.running import make_certificate
from tests.kit.traffic import Client, agents, answers, is_refused, leaves
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


# Unix sockets


@node("test-cluster-listen-pipe-readable-writable")
async def test_cluster_listen_pipe_readable_writable(tmp_path, policy):
    path = str(tmp_path / "socket")
    async with agents(tmp_path, policy=policy) as (_, worker):
        await worker.do("sock = everycore.listen(path, mode=0o777)", path=path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777
        await worker.do("server = await asyncio.start_unix_server(greet, sock=sock)")
        await answers(path, worker)


@node(
    "test-cluster-http-pipe",
    adapted="The server is `http.server` on a socket of `everycore.listen`. On a unix socket Python "
    "reports the client's address as '' and the server's as the path.",
)
async def test_cluster_http_pipe(tmp_path, policy):
    """The addresses that Node leaves undefined at both ends are those of Python's sockets here."""
    source = """
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            ends = [self.client_address, self.connection.getsockname()]
            self.wfile.write(json.dumps(ends).encode())

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer("", Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = everycore.listen(sys.argv[1])
    server.serve_forever()
    """
    path = str(tmp_path / "socket")
    settings = Settings(exec=worker_script(tmp_path, source), args=[path])
    async with Cluster(settings, policy=policy, grace=5.0) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        assert (await diary.until(Listening)).address == path
        client = await Client.open(path)
        client.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await client.ended()).partition(b"\r\n\r\n")
        await client.close()
        assert b" 200 OK\r\n" in head
        assert json.loads(body) == ["", path]
        worker.disconnect()
        assert await within(worker.wait()) == ExitStatus(code=0)


# Sockets from elsewhere


@node("test-listen-fd-cluster")
def test_listen_fd_cluster(tmp_path, start_program, policy):
    """The program that becomes the primary passes it a listening socket as descriptor 3."""
    worker = worker_script(
        tmp_path,
        """
        async def greet(reader, writer):
            writer.write(b"hello from the worker")
            writer.close()

        async def main():
            server = await asyncio.start_server(greet, sock=everycore.listen(fd=3))
            await server.serve_forever()
        everycore.run(main())
        """,
    )
    primary = tmp_path / "primary.py"
    primary.write_text(
        f"""
import everycore

async def main():
    settings = everycore.Settings(exec={str(worker)!r})
    async with everycore.Cluster(settings, policy={policy!r}) as cluster:
        listening = cluster.events(everycore.Listening)
        cluster.fork()
        event = await anext(listening)
        print("listening", event.fd, event.address[1])
        await cluster.wait()

everycore.run(main())
"""
    )
    program = start_program(
        f"""
        import os, socket, sys

        sock = socket.create_server(("127.0.0.1", 0))
        print("port", sock.getsockname()[1])
        os.dup2(sock.fileno(), 3)
        os.set_inheritable(3, True)
        os.execv(sys.executable, [sys.executable, "-u", {str(primary)!r}])
        """
    )
    port = int(program.expect(r"^port (\d+)$")[1])
    program.expect(rf"^listening 3 {port}$")
    with socket.create_connection((LOCAL, port)) as client:
        assert b"".join(iter(lambda: client.recv(100), b"")) == b"hello from the worker"
    assert program.finish() == 0


@node("test-cluster-net-reuseport")
async def test_cluster_net_reuseport(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        diary = Diary(cluster)
        port = 0
        for name in ("one", "two"):
            code = f"{name} = await asyncio.start_server(greet, '127.0.0.1', port, reuse_port=True)"
            await worker.do(code, port=port)
            port = await worker.get(f"{name}.sockets[0].getsockname()[1]")
        assert await worker.get("two.sockets[0].getsockname() == one.sockets[0].getsockname()")
        await answers((LOCAL, port), worker)
        assert cluster.snapshot().listeners == ()
        await leaves(worker)
        assert diary.all(Listening) == []


@node("test-net-listen-handle-in-cluster-1")
async def test_net_listen_handle_in_cluster_1(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        sock = socket.create_server((LOCAL, 0))
        address = sock.getsockname()
        await worker.do("given = handle", handle=sock)
        assert await worker.get("given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)") == 1
        await worker.do("server = await asyncio.start_server(greet, sock=given)")
        await answers(address, worker)
        assert cluster.snapshot().listeners == ()


@node("test-net-listen-handle-in-cluster-2")
async def test_net_listen_handle_in_cluster_2(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        diary = Diary(cluster)
        await worker.do("own = socket.socket(); own.bind(('0.0.0.0', 0))")
        await worker.do("server = await asyncio.start_server(greet, sock=own)")
        port = await worker.get("own.getsockname()[1]")
        await answers((LOCAL, port), worker)
        assert (cluster.snapshot().listeners, diary.all(Listening)) == ((), [])
        await leaves(worker)
        assert await is_refused((LOCAL, port))


# TLS


@node(
    "test-tls-ticket-cluster",
    adapted="Python's `ssl` has no call to set ticket keys, so only the worker that issued a session "
    "resumes it; every other worker serves the connection too, with a full handshake.",
)
async def test_tls_ticket_cluster(tmp_path, policy):
    """Node's primary gives all workers the same ticket keys; here each SSLContext makes its own."""
    pem = make_certificate(tmp_path)
    async with agents(tmp_path, 2, policy=policy) as (_, *workers):
        port = 0
        for worker in workers:
            await worker.listens(
                "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
                "context.load_cert_chain(pem)\n"
                "server = await asyncio.start_server(greet, '127.0.0.1', port, ssl=context)",
                pem=pem,
                port=port,
            )
            port = await worker.get("server.sockets[0].getsockname()[1]")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=pem)
            context.minimum_version = context.maximum_version = version
            await within(asyncio.to_thread(offered_to_both, context, port, {one.id for one in workers}))


def offered_to_both(context, port, workers):
    """Get a session, and offer it until both the worker that issued it and another one have answered."""
    issuer, session, reused = tls_greeting(context, port)
    assert issuer in workers
    assert not reused
    met: set[int] = set()
    while met != workers:
        worker, another, reused = tls_greeting(context, port, session)
        assert reused == (worker == issuer)
        met.add(worker)
        if worker == issuer:
            session = another  # a TLS 1.3 ticket should be used once


def tls_greeting(context, port, session=None):
    """Returns which worker answered, the session to offer next, and whether this one was resumed."""
    with (
        socket.create_connection((LOCAL, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as sock,
        sock.makefile("rb") as lines,
    ):
        return int(lines.readline()), sock.session, sock.session_reused
