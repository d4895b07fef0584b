"""cheroot: a WSGI server, with TLS."""

import sys

from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from wsgi_app import app

server = wsgi.Server(("127.0.0.1", int(sys.argv[1])), app)
server.ssl_adapter = BuiltinSSLAdapter(sys.argv[2], sys.argv[2])
try:
    server.start()
finally:
    server.stop()
