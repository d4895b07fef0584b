"""grpclib: a server of asyncio; a codec of bytes instead of generated messages."""

import asyncio
import sys

import grpclib.const
import grpclib.encoding.base
import grpclib.server
from answer import slow_async, who
from grpclib.utils import graceful_exit


class Bytes(grpclib.encoding.base.CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


class Service:
    async def ask(self, stream):
        request = await stream.recv_message()
        client = stream.peer.addr()[0]
        text = await slow_async(client) if request == b"slow" else who(client)
        await stream.send_message(text.encode())

    def __mapping__(self):
        return {
            "/m.M/Ask": grpclib.const.Handler(self.ask, grpclib.const.Cardinality.UNARY_UNARY, bytes, bytes)
        }


async def main():
    server = grpclib.server.Server([Service()], codec=Bytes())
    with graceful_exit([server]):
        await server.start("127.0.0.1", int(sys.argv[1]))
        await server.wait_closed()


asyncio.run(main())
