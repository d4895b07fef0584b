"""An HTTP/2 client, frame by frame, which reacts to a GOAWAY as RFC 9113 6.8 prescribes.

It uses hyperframe and hpack, which hypercorn installs. Neither httpx nor h2 is suitable: for them a GOAWAY
ends the requests under way.
"""

import asyncio
import contextlib
import ssl
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from tests.kit import scaled

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
#: A stream's window if the server names no other: no more than this can be sent at once.
WINDOW = 2**16 - 1


class LostError(Exception):
    """A request without an answer."""


class Http2Connection:
    """One connection and its requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next = 1
        self._answers: dict[int, asyncio.Future[tuple[dict[str, str], bytes]]] = {}
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        #: The last stream that each GOAWAY has named.
        self.goaways: list[int] = []
        self.is_over = False
        self.told = asyncio.Event()
        writer.write(PREFACE)
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, port: int, *, tls: bool = False) -> Self:
        context = None
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        if tls:
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        return cls(reader, writer)

    def begin(
        self, path: str = "/", body: bytes | None = None
    ) -> "asyncio.Future[tuple[dict[str, str], bytes]]":
        """Send a request. Returns the answer's head and body, or raises LostError."""
        stream, self._next = self._next, self._next + 2
        head = [(":method", "GET" if body is None else "POST"), (":path", path), (":scheme", "http")]
        data = self._encoder.encode([*head, (":authority", "x")])
        ends = ["END_HEADERS"] if body is not None else ["END_HEADERS", "END_STREAM"]
        self._writer.write(HeadersFrame(stream, data, flags=ends).serialize())
        if body is not None:
            assert len(body) <= WINDOW
            parts = [body[at : at + 2**14] for at in range(0, len(body), 2**14)]
            for part in parts:
                self._writer.write(DataFrame(stream, part).serialize())
            self._writer.write(DataFrame(stream, b"", flags=["END_STREAM"]).serialize())
        answer = asyncio.get_running_loop().create_future()
        self._answers[stream], self._bodies[stream] = answer, b""
        if self.is_over:
            self._lose(stream, "the connection has ended")
        return answer

    async def ask(self, path: str = "/", body: bytes | None = None) -> bytes:
        """Send a request. Returns the body of the answer."""
        async with asyncio.timeout(scaled(30)):
            return (await self.begin(path, body))[1]

    async def close(self) -> None:
        self._writer.close()
        await self._reading
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
        except (OSError, EOFError):
            self.is_over = True
            for stream in list(self._answers):
                self._lose(stream, "the connection has ended")

    def _take(self, frame: Frame) -> None:
        stream = frame.stream_id
        match frame:
            case HeadersFrame():
                self._heads[stream] = {
                    str(name): str(value) for name, value in self._decoder.decode(frame.data)
                }
            case DataFrame():
                self._bodies[stream] += frame.data
            case RstStreamFrame():
                self._lose(stream, "the stream was reset")
            case GoAwayFrame():
                self.goaways.append(frame.last_stream_id)
                self.told.set()
            case SettingsFrame() if "ACK" not in frame.flags:
                self._writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
            case PingFrame() if "ACK" not in frame.flags:
                self._writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        if "END_STREAM" in frame.flags and stream in self._answers:
            self._answers.pop(stream).set_result((self._heads.pop(stream), self._bodies.pop(stream)))

    def _lose(self, stream: int, why: str) -> None:
        answer = self._answers.pop(stream, None)
        if answer is not None:
            answer.set_exception(LostError(f"{why} (stream {stream})"))


async def ask_often(
    port: int, over: asyncio.Event, answered: "asyncio.Queue[bytes]", *, tls: bool, at_once: int = 1
) -> int:
    """Send `at_once` requests at a time until `over`, on a new connection after each GOAWAY.

    Returns the number of connections. Raises LostError.
    """
    connections = 0
    while not over.is_set():
        connection = await Http2Connection.open(port, tls=tls)
        connections += 1
        while not over.is_set() and not connection.goaways:
            async with asyncio.timeout(scaled(30)):
                for _, body in await asyncio.gather(*[connection.begin() for _ in range(at_once)]):
                    answered.put_nowait(body)
        await connection.close()
    return connections
