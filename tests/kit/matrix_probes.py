"""How a program of the matrix is asked: one function for each protocol, which opens a new connection.

    answer = PROBES["http"](place, "127.0.0.7", slow=False)

Programs answer `worker=PID client=HOST;`, however their protocol wraps it. A client's address is in
127.0.0.0/8, so that a test recognizes the answer to another client.
"""

import asyncio
import ftplib
import json
import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.kit import scaled

_ANSWER = re.compile(rb"worker=(\d+) client=([^;]*);")


@dataclass(frozen=True)
class Place:
    """Where a program listens: a port of 127.0.0.1, or the path of a unix socket."""

    port: int = 0
    path: str = ""
    is_tls: bool = False


@dataclass(frozen=True)
class Answer:
    """The process that has answered, and the client address that it was given."""

    pid: int
    client: str


Probe = Callable[[Place, str, bool], Answer]


def read(data: bytes) -> Answer:
    """Parse an answer. Raises AssertionError for any other text."""
    found = _ANSWER.search(data)
    assert found, f"an answer that says nothing: {data[:500]!r}"
    return Answer(int(found[1]), found[2].decode())


def dial(place: Place, client: str) -> socket.socket:
    """Open a connection. Raises OSError."""
    if place.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(scaled(20))
        try:
            sock.connect(place.path)
        except OSError:
            sock.close()
            raise
    else:
        sock = socket.create_connection(("127.0.0.1", place.port), scaled(20), (client, 0))
    if not place.is_tls:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def _talk(place: Place, client: str, request: bytes) -> bytes:
    """Everything that comes until the program closes the connection."""
    with dial(place, client) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def line(place: Place, client: str, slow: bool) -> Answer:
    return read(_talk(place, client, b"slow\n" if slow else b"who\n"))


def http(place: Place, client: str, slow: bool) -> Answer:
    path = b"/slow" if slow else b"/"
    answer = _talk(place, client, b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
    assert re.match(rb"HTTP/1\.[01] 200 ", answer), answer
    return read(answer)


def _post(place: Place, client: str, path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nConnection: close\r\n"
    head += f"Content-Type: {kind}\r\n"
    head += f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    return _talk(place, client, head.encode() + body)


def xmlrpc(place: Place, client: str, slow: bool) -> Answer:
    value = f"<param><value><string>{'slow' if slow else 'who'}</string></value></param>"
    body = f"<methodCall><methodName>ask</methodName><params>{value}</params></methodCall>"
    return read(_post(place, client, "/RPC2", "text/xml", body.encode()))


def mcp(place: Place, client: str, slow: bool) -> Answer:
    call = {"name": "ask", "arguments": {"word": "slow" if slow else "who"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return read(_post(place, client, "/mcp", "application/json", json.dumps(message).encode()))


def udp(place: Place, client: str, slow: bool) -> Answer:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(scaled(20))
        sock.bind((client, 0))
        sock.sendto(b"who\n", ("127.0.0.1", place.port))
        return read(sock.recv(1000))


def websocket(place: Place, client: str, slow: bool) -> Answer:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{place.port}", sock=dial(place, client)) as connection:
        connection.send("slow" if slow else "who")
        return read(str(connection.recv(scaled(20))).encode())


def socketio(place: Place, client: str, slow: bool) -> Answer:
    """Socket.IO over WebSocket: the open packet, a connect to the default namespace, an event's answer."""
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{place.port}/socket.io/?EIO=4&transport=websocket"
    # Flask-SocketIO in threads answers the close frame at its next ping: do not wait for that.
    with connect(address, sock=dial(place, client), close_timeout=0.5) as connection:
        connection.recv(scaled(20))
        connection.send("40")
        connection.recv(scaled(20))
        connection.send(f'420["{"slow" if slow else "who"}"]')
        while not (text := str(connection.recv(scaled(20)))).startswith("43"):
            assert text == "2", text
            connection.send("3")
        return read(text.encode())


def grpc(place: Place, client: str, slow: bool) -> Answer:
    """A unary call: one message in a frame, over HTTP/2."""
    from hpack import Decoder, Encoder
    from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame

    from tests.kit.http2_clients import PREFACE

    body = b"slow" if slow else b"who"
    head = {":method": "POST", ":scheme": "http", ":path": "/m.M/Ask", ":authority": "localhost"}
    head |= {"te": "trailers", "content-type": "application/grpc"}
    data, answer = DataFrame(1, b"\0" + len(body).to_bytes(4) + body, flags=["END_STREAM"]), b""
    first = HeadersFrame(1, Encoder().encode(list(head.items())), flags=["END_HEADERS"])
    heads = Decoder()
    with dial(place, client) as sock, sock.makefile("rb") as file:
        sock.sendall(PREFACE + first.serialize() + data.serialize())
        while True:
            start = file.read(9)
            assert len(start) == 9, f"the call was not answered: {answer!r}"
            frame, length = Frame.parse_frame_header(memoryview(start))
            frame.parse_body(memoryview(file.read(length)))
            if isinstance(frame, DataFrame):
                answer += frame.data
            elif isinstance(frame, HeadersFrame):
                answer += repr(heads.decode(frame.data)).encode() if "END_STREAM" in frame.flags else b""
            elif isinstance(frame, SettingsFrame | PingFrame) and "ACK" not in frame.flags:
                reply = (
                    SettingsFrame(0) if isinstance(frame, SettingsFrame) else PingFrame(0, frame.opaque_data)
                )
                reply.flags.add("ACK")
                sock.sendall(reply.serialize())
            if frame.stream_id and "END_STREAM" in frame.flags:
                return read(answer)


def smtp(place: Place, client: str, slow: bool) -> Answer:
    with smtplib.SMTP("127.0.0.1", place.port, "localhost", scaled(20), (client, 0)) as connection:
        connection.ehlo_or_helo_if_needed()
        connection.mail("a@example.org")
        return read(connection.rcpt(f"{'slow' if slow else 'who'}@example.org")[1])


def ftp(place: Place, client: str, slow: bool) -> Answer:
    """Also request a list of files, which comes over a port that is opened for it."""
    with ftplib.FTP(timeout=scaled(20), source_address=(client, 0)) as connection:
        connection.connect("127.0.0.1", place.port)
        connection.login()
        connection.retrlines("LIST", lambda line: None)
        return read(connection.sendcmd("SYST").encode())


def ssh(place: Place, client: str, slow: bool) -> Answer:
    import asyncssh

    async def ask() -> Any:
        options = {"known_hosts": None, "username": "matrix", "client_keys": None, "config": None}
        where = {"local_addr": (client, 0), **options}
        async with asyncssh.connect("127.0.0.1", place.port, **where) as connection:
            return (await connection.run("slow" if slow else "who")).stdout

    return read(str(asyncio.run(asyncio.wait_for(ask(), scaled(20)))).encode())


def quic(place: Place, client: str, slow: bool) -> Answer:
    """A connection of QUIC, and one stream."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    async def ask() -> bytes:
        options = QuicConfiguration(is_client=True, alpn_protocols=["matrix"], verify_mode=ssl.CERT_NONE)
        connection = QuicConnection(configuration=options)
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: QuicConnectionProtocol(connection), local_addr=(client, 0)
        )
        try:
            protocol.connect(("127.0.0.1", place.port))
            await protocol.wait_connected()
            reader, writer = await protocol.create_stream()
            writer.write(b"who\n")
            writer.write_eof()
            return await reader.read()
        finally:
            protocol.close()
            await protocol.wait_closed()
            transport.close()

    return read(asyncio.run(asyncio.wait_for(ask(), scaled(20))))


PROBES: dict[str, Probe] = {
    probe.__name__: probe
    for probe in (line, http, xmlrpc, mcp, udp, quic, websocket, socketio, grpc, smtp, ftp, ssh)
}
