"""An HTTP/3 client, for machines with aioquic."""

import asyncio
import ssl
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic.configuration import QuicConfiguration

from tests.kit import scaled


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.http = H3Connection(self._quic)
        self.body = b""
        self.answered = asyncio.Event()

    def quic_event_received(self, event: Any) -> None:
        for found in self.http.handle_event(event):
            if isinstance(found, DataReceived):
                self.body += found.data
                if found.stream_ended:
                    self.answered.set()


async def ask_http3(port: int, path: str) -> bytes:
    """Send one request on a new connection. Returns the body of the answer."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    async with (
        asyncio.timeout(scaled(30)),
        connect("127.0.0.1", port, configuration=configuration, create_protocol=_Client) as client,
    ):
        assert isinstance(client, _Client)
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost")]
        client.http.send_headers(
            client._quic.get_next_available_stream_id(), [*head, (b":path", path.encode())], end_stream=True
        )
        client.transmit()
        await client.answered.wait()
        return client.body
