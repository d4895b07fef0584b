"""pyftpdlib: "a base FTP server"; the banner says who answers."""

import sys

from answer import who
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer


class Handler(FTPHandler):
    def ftp_SYST(self, line):
        self.respond(f"215 {who(self.remote_ip)}")


authorizer = DummyAuthorizer()
authorizer.add_anonymous(".")
Handler.authorizer = authorizer
FTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
