"""socketserver: UDPServer."""

import socketserver
import sys

from answer import who


class Handler(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(who(self.client_address[0]).encode())


with socketserver.UDPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
    server.serve_forever()
