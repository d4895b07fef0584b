"""gevent: StreamServer, with nothing patched."""

import os
import sys

import gevent
from answer import who
from gevent.server import StreamServer


def handle(sock, address):
    if sock.recv(100).startswith(b"slow"):
        os.write(1, b"slow\n")
        gevent.sleep(1)
    sock.sendall(who(address[0]).encode())
    sock.close()


StreamServer(("127.0.0.1", int(sys.argv[1])), handle).serve_forever()
