"""xmlrpc.server: "SimpleXMLRPCServer Example"; the server keeps the address of who asks."""

import sys
from xmlrpc.server import SimpleXMLRPCServer

from answer import slow, who


class Server(SimpleXMLRPCServer):
    def finish_request(self, request, client_address):
        self.client = client_address[0]
        super().finish_request(request, client_address)


with Server(("127.0.0.1", int(sys.argv[1])), logRequests=False) as server:

    @server.register_function
    def ask(word):
        return slow(server.client) if word == "slow" else who(server.client)

    server.serve_forever()
