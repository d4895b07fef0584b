"""Pyramid, by waitress."""

import sys

from answer import slow, who
from pyramid.config import Configurator
from pyramid.response import Response
from waitress import serve


def index(request):
    return Response(who(request.remote_addr))


def wait(request):
    return Response(slow(request.remote_addr))


with Configurator() as config:
    config.add_route("index", "/")
    config.add_view(index, route_name="index")
    config.add_route("slow", "/slow")
    config.add_view(wait, route_name="slow")
    app = config.make_wsgi_app()

serve(app, host="127.0.0.1", port=int(sys.argv[1]))
