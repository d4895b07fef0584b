"""Twisted: a site of twisted.web, by reactor.listenTCP; or a protocol by an endpoint."""

import os
import sys

from answer import who
from twisted.internet import endpoints, protocol, reactor
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web import resource, server


class Index(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        text = who(request.getClientAddress().host).encode()
        if request.path != b"/slow":
            return text
        os.write(1, b"slow\n")
        reactor.callLater(1, lambda: (request.write(text), request.finish()))
        return server.NOT_DONE_YET


class Lines(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        if line == b"slow":
            os.write(1, b"slow\n")
        reactor.callLater(line == b"slow", self.answer)

    def answer(self):
        self.transport.write(who(self.transport.getPeer().host).encode())
        self.transport.loseConnection()


kind, port = sys.argv[1:]
if kind == "web":
    reactor.listenTCP(int(port), server.Site(Index()), interface="127.0.0.1")
else:
    endpoint = endpoints.TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1")
    endpoint.listen(protocol.Factory.forProtocol(Lines))
reactor.run()
