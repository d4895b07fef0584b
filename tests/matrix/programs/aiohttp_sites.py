"""aiohttp's "Application runners": TCPSite, SockSite, UnixSite, and web.run_app."""

import asyncio
import socket
import ssl
import sys

from aiohttp import web
from answer import slow_async, who


async def handle(request):
    return web.Response(text=who(request.remote))


async def handle_slow(request):
    return web.Response(text=await slow_async(request.remote))


app = web.Application()
app.add_routes([web.get("/", handle), web.get("/slow", handle_slow)])


async def serve(kind, *where):
    runner = web.AppRunner(app)
    await runner.setup()
    if kind == "tcp":
        site = web.TCPSite(runner, "127.0.0.1", int(where[0]))
    elif kind == "unix":
        site = web.UnixSite(runner, where[0])
    else:
        sock = socket.create_server(("127.0.0.1", int(where[0])))
        site = web.SockSite(runner, sock)
    await site.start()
    while True:
        await asyncio.sleep(3600)


kind, *where = sys.argv[1:]
if kind == "run_app":
    web.run_app(app, host="127.0.0.1", port=int(where[0]), print=None)
elif kind == "tls":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(where[1])
    web.run_app(app, host="127.0.0.1", port=int(where[0]), ssl_context=context, print=None)
else:
    asyncio.run(serve(kind, *where))
