"""Node's tests of children that bind for themselves, side by side, and of plain descriptors."""

import asyncio
import socket

import pytest

from everycore import Cluster, ExitStatus, Settings, Worker
from tests.conformance.node import node
from tests.kit.traffic import Client, agents, close_all
from tests.kit.workers import heard, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


@node("test-child-process-fork-dgram")
async def test_child_process_fork_dgram(tmp_path):
    """This process and a worker share a UDP socket: either can receive from it."""
    source = """
    async def main():
        me = everycore.current_worker()
        loop = asyncio.get_running_loop()
        messages = me.messages()
        sock = (await anext(messages)).handle
        async for message in messages:
            await me.send(await loop.sock_recv(sock, 100))

    everycore.run(main())
    """
    loop = asyncio.get_running_loop()
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        child = cluster.fork()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind((LOCAL, 0))
            server.setblocking(False)
            client.connect(server.getsockname())
            await child.send("server", server, keep_open=True)
            for number in range(3):
                client.send(b"to the worker %d" % number)
                await child.send("receive")
                assert await heard(child) == b"to the worker %d" % number
                client.send(b"to us %d" % number)
                assert await within(loop.sock_recv(server, 100)) == b"to us %d" % number


@node("test-child-process-pass-fd")
async def test_child_process_pass_fd(tmp_path):
    """Eighty connections come from workers at once; each arrives intact, followed by its own worker's data.

    Twenty from each of four workers, where Node's test has a process for each.
    """
    source = """
    async def main():
        me = everycore.current_worker()
        with socket.create_server(("127.0.0.1", 0), backlog=20) as server:
            pairs = []
            for number in range(20):
                client = socket.create_connection(server.getsockname())
                pairs.append((client, server.accept()[0]))
        messages = me.messages()
        sending = [me.send(number, client) for number, (client, _) in enumerate(pairs)]
        await asyncio.gather(*sending)
        for _ in range(20):
            number = (await anext(messages)).message
            _, connection = pairs[number]
            connection.sendall(b"hello %d" % number)
            connection.close()
        await for_ever()

    everycore.run(main())
    """

    async def take(worker: Worker) -> None:
        messages = worker.messages()
        for number in range(20):
            message = await within(anext(messages))
            assert message.message == number
            reader, writer = await asyncio.open_connection(sock=message.handle)
            await worker.send(number)
            assert await within(reader.read()) == b"hello %d" % number
            writer.close()
            await writer.wait_closed()
        worker.kill()
        assert await within(worker.wait()) == ExitStatus(code=0)

    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        await asyncio.gather(*(take(cluster.fork()) for _ in range(4)))


@node("test-child-process-net-reuseport")
async def test_child_process_net_reuseport(tmp_path):
    """With `reuse_port` this process and two workers each listen on one port, with their own sockets."""
    async with agents(tmp_path, 2) as (cluster, *workers):

        async def serve(port: int) -> asyncio.Server:
            return await asyncio.start_server(lambda *_: None, LOCAL, port, reuse_port=True)

        server = await serve(0)
        port = server.sockets[0].getsockname()[1]
        for worker in workers:
            await worker.do(
                "server = await asyncio.start_server(greet, '127.0.0.1', port, reuse_port=True)", port=port
            )
            assert await worker.get("server.sockets[0].getsockname()[1]") == port
        assert cluster.snapshot().listeners == ()
        server.close()
        await server.wait_closed()
        await workers[0].do("server.close()")
        clients = [await Client.connect((LOCAL, port)) for _ in range(3)]
        assert {client.worker for client in clients} == {workers[1].id}
        await close_all(clients)


@node("test-child-process-dgram-reuseport")
async def test_child_process_dgram_reuseport(tmp_path):
    """The same for UDP."""
    loop = asyncio.get_running_loop()
    async with agents(tmp_path, 2) as (cluster, *workers):
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(LOCAL, 0), reuse_port=True
        )
        port = transport.get_extra_info("sockname")[1]
        for worker in workers:
            await worker.do(
                "transport, _ = await asyncio.get_running_loop().create_datagram_endpoint("
                "asyncio.DatagramProtocol, local_addr=('127.0.0.1', port), reuse_port=True)",
                port=port,
            )
            assert await worker.get("transport.get_extra_info('sockname')[1]") == port
        assert cluster.snapshot().listeners == ()
        transport.close()
