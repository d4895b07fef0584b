"""Sockets that a worker and the primary send to each other."""

import asyncio
import socket

import pytest

from everycore import Cluster, ExitStatus, Settings
from tests.conformance.node import node
from tests.kit.workers import within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server((LOCAL, 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return client, accepted


@node("test-cluster-net-send")
async def test_cluster_net_send(tmp_path, policy):
    """A worker connects to its own server and gives the client's end away: the data goes with it."""
    source = """
    async def main():
        me = everycore.current_worker()
        accepted = asyncio.get_running_loop().create_future()

        async def hello(reader, writer):
            accepted.set_result(None)
            assert (await anext(messages)).message == "got"
            writer.write(b"hello")
            writer.close()

        messages = me.messages()
        server = await asyncio.start_server(hello, "127.0.0.1", 0)
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
        await accepted
        await me.send("handle", client)
        await for_ever()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        worker = cluster.fork()
        message = await within(anext(worker.messages()))
        assert message.message == "handle"
        assert isinstance(message.handle, socket.socket)
        await worker.send("got")
        reader, writer = await asyncio.open_connection(sock=message.handle)
        assert await within(reader.read()) == b"hello"
        writer.close()
        await writer.wait_closed()
        worker.kill()
        assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-cluster-send-handle-twice",
    adapted="The first `send` needs `keep_open=True`: without it the call gives the socket away, and "
    "sending it once more raises OSError (EBADF) in the sender.",
)
async def test_cluster_send_handle_twice(tmp_path, policy):
    """The same socket is sent twice: both copies arrive and are one connection.

    Adapted: the first call keeps it open. A third call, after it was given away, raises OSError.
    """
    source = """
    import errno

    async def main():
        me = everycore.current_worker()
        server = everycore.listen(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = await asyncio.to_thread(server.accept)
        await me.send("send-handle-1", accepted, keep_open=True)
        await me.send("send-handle-2", accepted)
        try:
            await me.send("send-handle-3", accepted)
        except OSError as error:
            await me.send(error.errno == errno.EBADF)
        data = b""
        while len(data) < 2:
            data += await asyncio.to_thread(client.recv, 10)
        await me.send(data)
        me.disconnect()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        worker = cluster.fork()
        messages = worker.messages()
        for number in (1, 2):
            message = await within(anext(messages))
            assert message.message == f"send-handle-{number}"
            with message.handle as handle:
                handle.sendall(b"%d" % number)
        refused = await within(anext(messages))
        assert (refused.message, refused.handle) == (True, None)
        assert (await within(anext(messages))).message == b"12"
        assert await within(worker.wait()) == ExitStatus(code=0)


@node(
    "test-cluster-send-socket-to-worker-http-server",
    adapted="`server.emit('connection', socket)` is `server.process_request(socket, address)` of "
    "`http.server`; with asyncio it is `loop.connect_accepted_socket(protocol_factory, "
    "socket)`.",
)
async def test_cluster_send_socket_to_worker_http_server(tmp_path):
    """A connection that the primary accepted goes to an HTTP server of the worker, which never listened.

    Adapted: the server is the standard library's; its handler's answer shows that the connection belongs to
    it.
    """
    source = """
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = str(self.server is server).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)

    async def main():
        me = everycore.current_worker()
        message = await anext(me.messages())
        message.handle.setblocking(True)
        await asyncio.to_thread(server.process_request, message.handle, message.handle.getpeername())
        server.server_close()
        me.disconnect()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        with socket.create_server((LOCAL, 0)) as server:
            reader, writer = await asyncio.open_connection(*server.getsockname())
            accepted, _ = server.accept()
        await worker.send("socket", accepted)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await within(reader.read())).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert b" 200 " in head
        assert body == b"True"
        assert await within(worker.wait()) == ExitStatus(code=0)


@node("test-cluster-send-handle-large-payload")
async def test_cluster_send_handle_large_payload(tmp_path):
    """A message far larger than a socket's buffer, with a handle, there and back."""
    source = """
    async def main():
        me = everycore.current_worker()
        message = await anext(me.messages())
        await me.send(message.message, message.handle)

    everycore.run(main())
    """
    payload = "a" * 800_004
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        client, accepted = connected_pair()
        with client:
            await within(worker.send({"payload": payload}, accepted))
            message = await within(anext(worker.messages()))
            assert message.message == {"payload": payload}
            with message.handle as handle:
                handle.setblocking(True)
                handle.sendall(b"the same connection")
            assert client.recv(100) == b"the same connection"
            assert client.recv(100) == b""
        assert await within(worker.wait()) == ExitStatus(code=0)
