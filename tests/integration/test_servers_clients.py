"""Servers of asyncio in workers: TLS, clients of all kinds, and handlers that fail."""

import socket
import ssl
import subprocess

import pytest

from tests.kit.traffic import Client, agents, closing, servers
from tests.kit.workers import within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: The same code resolves and requests addresses on both loops: those tests use `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

LOCAL = "127.0.0.1"


# Faulty programs


@both_loops
async def test_a_protocol_factory_that_raises_loses_that_connection_alone(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
reports = []
loop = asyncio.get_running_loop()
loop.set_exception_handler(lambda loop, context: reports.append(str(context["exception"])))
turn_of = iter([True, False])

def factory():
    if next(turn_of, False):
        raise ValueError("no protocol today")
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), greet)

server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        unlucky = await Client.open(address)
        assert await unlucky.ended() == b""
        await unlucky.close()
        client = await Client.connect(address)
        assert await worker.get("reports") == ["no protocol today"]
        await client.close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))  # the failed one is not counted as open


@both_loops
async def test_a_handler_that_raises_loses_that_connection_alone(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
reports = []
asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context["message"]))

async def bad(reader, writer):
    if (await reader.readline()).strip() == b"bad":
        raise ValueError
    await greet(reader, writer)

server = await asyncio.start_server(bad, "127.0.0.1", 0)
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        one, two = await Client.open(address), await Client.open(address)
        one.writer.write(b"bad\n")
        assert await one.ended() == b""
        two.writer.write(b"good\n")
        assert await two.greeting() == worker.id
        await one.close()
        await two.close()


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Files with a new key and certificate for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    argv = [*command.split(), *name, "-keyout", key, "-out", cert]
    subprocess.run(argv, check=True, capture_output=True)
    return key, cert


SERVE_TLS = """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context, **more)
"""


def trusting(cert: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cert)
    return context


@both_loops
async def test_tls_is_spoken_by_every_worker(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.listens(SERVE_TLS, key=key, cert=cert, more={})
        address = tuple(await first.get("server.sockets[0].getsockname()"))
        async with closing([await Client.connect(address, tls=trusting(cert)) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}
            assert clients[0].writer.get_extra_info("cipher")
            text = "x" * 40_000
            clients[0].reader._limit = 1 << 20  # type: ignore[attr-defined]
            assert await clients[0].echo(text) == text


@both_loops
async def test_a_client_without_tls_or_trust_does_no_harm(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path) as (_, worker):
        await worker.do("asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)")
        await worker.do(SERVE_TLS, key=key, cert=cert, more={})
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        plain = await Client.open(address)
        plain.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await plain.ended()
        await plain.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.open(address, tls=ssl.create_default_context())
        await (await Client.connect(address, tls=trusting(cert))).close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))


@both_loops
async def test_a_silent_client_is_given_up_after_the_handshake_timeout(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path) as (_, worker):
        await worker.do("asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)")
        await worker.do(SERVE_TLS, key=key, cert=cert, more={"ssl_handshake_timeout": 0.05})
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        silent = await Client.open(address)
        assert await silent.ended() == b""
        await silent.close()


@both_loops
async def test_tls_on_a_socket_from_listen_and_on_a_unix_path(tmp_path, certificate):
    key, cert = certificate
    path = str(tmp_path / "s")
    async with agents(tmp_path) as (_, worker):
        await worker.do(SERVE_TLS, key=key, cert=cert, more={})
        await worker.do(
            "sock = everycore.listen(('127.0.0.1', 0))\n"
            "second = await asyncio.start_server(greet, sock=sock, ssl=context)\n"
            "third = await asyncio.start_unix_server(greet, path, ssl=context)",
            path=path,
        )
        for address in (tuple(await worker.get("sock.getsockname()")), path):
            client = await Client.connect(address, tls=trusting(cert))
            assert await client.echo() == "hello"
            await client.close()


# Clients of all kinds


@both_loops
async def test_a_client_that_leaves_at_once_does_no_harm(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        for _ in range(20):
            with socket.create_connection((LOCAL, port)) as sock:
                # Reset instead of an orderly end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client = await Client.connect((LOCAL, port))
        assert await client.echo() == "hello"
        await client.close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))


@both_loops
async def test_servers_close_when_the_worker_leaves_and_connections_may_finish(tmp_path):
    async with servers(tmp_path, 1, grace=10.0) as (_, (worker,), address):
        client = await Client.connect(address)
        worker.worker.disconnect()
        assert await client.echo("still served") == "still served"
        await client.close()
        assert (await within(worker.worker.wait())).code == 0


@both_loops
async def test_a_thousand_bytes_at_once_and_in_order(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        client = await Client.connect((LOCAL, port))
        for number in range(50):
            client.writer.write(b"%d\n" % number)
        assert [int(await within(client.reader.readline())) for _ in range(50)] == list(range(50))
        await client.close()
