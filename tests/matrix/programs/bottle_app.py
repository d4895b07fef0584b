"""Bottle: "Hello world", by its default server."""

import sys

from answer import slow, who
from bottle import request, route, run


@route("/")
def index():
    return who(request.remote_addr)


@route("/slow")
def wait():
    return slow(request.remote_addr)


run(host="127.0.0.1", port=int(sys.argv[1]), quiet=True)
