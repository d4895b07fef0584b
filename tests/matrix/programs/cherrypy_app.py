"""CherryPy: cherrypy.quickstart."""

import sys

import cherrypy
from answer import slow, who


class Root:
    @cherrypy.expose
    def index(self):
        return who(cherrypy.request.remote.ip)

    @cherrypy.expose
    def slow(self):
        return slow(cherrypy.request.remote.ip)


where = {"server.socket_host": "127.0.0.1", "server.socket_port": int(sys.argv[1])}
cherrypy.quickstart(Root(), "/", {"global": {**where, "engine.autoreload.on": False}})
