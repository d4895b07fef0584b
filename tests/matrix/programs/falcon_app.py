"""Falcon, by the standard library's WSGI server."""

import sys
from wsgiref.simple_server import make_server

import falcon
from answer import slow, who


class Index:
    def on_get(self, req, resp):
        resp.text = who(req.remote_addr)


class Slow:
    def on_get(self, req, resp):
        resp.text = slow(req.remote_addr)


app = falcon.App()
app.add_route("/", Index())
app.add_route("/slow", Slow())

with make_server("127.0.0.1", int(sys.argv[1]), app) as server:
    server.serve_forever()
