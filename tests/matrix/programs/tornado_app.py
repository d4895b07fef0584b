"""Tornado: Application.listen, with TLS where a certificate is named."""

import asyncio
import ssl
import sys

import tornado.web
from answer import slow_async, who


class Index(tornado.web.RequestHandler):
    def get(self):
        self.write(who(self.request.remote_ip))


class Slow(tornado.web.RequestHandler):
    async def get(self):
        self.write(await slow_async(self.request.remote_ip))


async def main():
    app = tornado.web.Application([("/", Index), ("/slow", Slow)])
    context = None
    if sys.argv[2:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[2])
    app.listen(int(sys.argv[1]), "127.0.0.1", ssl_options=context)
    await asyncio.Event().wait()


asyncio.run(main())
