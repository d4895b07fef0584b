"""aioquic: a server of streams. Each worker has a socket of its own, and a client stays with one worker."""

import asyncio
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from answer import who


class Connection(QuicConnectionProtocol):
    client = "nobody"

    def datagram_received(self, data, addr):
        self.client = addr[0]
        super().datagram_received(data, addr)

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, who(self.client).encode(), end_stream=True)
            self.transmit()


async def main(port, pem):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["matrix"])
    configuration.load_cert_chain(pem, pem)
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(configuration=configuration, create_protocol=Connection),
        local_addr=("127.0.0.1", int(port)),
        reuse_port=True,
    )
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
