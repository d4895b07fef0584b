"""socketserver: threads or forks."""

import socketserver
import sys

from answer import slow, who


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        line, client = self.rfile.readline(), self.client_address[0]
        self.wfile.write((slow(client) if line.startswith(b"slow") else who(client)).encode())


kind = {"threads": socketserver.ThreadingTCPServer, "forks": socketserver.ForkingTCPServer}[sys.argv[1]]
kind.allow_reuse_address = True
with kind(("127.0.0.1", int(sys.argv[2])), Handler) as server:
    server.serve_forever()
