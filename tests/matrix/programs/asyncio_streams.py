"""asyncio: streams, "TCP echo server using streams"; or TLS, or a unix socket, or uvloop."""

import asyncio
import ssl
import sys

from answer import slow_async, who


async def handle(reader, writer):
    line = await reader.readline()
    peer = writer.get_extra_info("peername")
    client = peer[0] if peer else "nobody"
    writer.write((await slow_async(client) if line.startswith(b"slow") else who(client)).encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(kind, where, *more):
    if kind == "unix":
        server = await asyncio.start_unix_server(handle, where)
    elif kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(more[0])
        server = await asyncio.start_server(handle, "127.0.0.1", int(where), ssl=context)
    else:
        server = await asyncio.start_server(handle, "127.0.0.1", int(where))
    async with server:
        await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
else:
    asyncio.run(main(*sys.argv[1:]))
