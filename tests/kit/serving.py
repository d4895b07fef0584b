"""`everycore serve` as a real process on a port of its own, and clients of it."""

import http.client
import re
import socket
import sys
from dataclasses import dataclass

from tests.kit import Program, descendants, scaled
from tests.kit.processes import command_line

#: Names the process that answers. /address names the client; /body waits for the body and reports that on
#: stdout, in one write, so that lines of several processes do not mix.
APP = """
import everycore, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"shut down %d\\n" % everycore.current_worker().id)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = str(everycore.current_worker().id)
    if scope["path"] == "/address":
        body = "%s %d" % tuple(scope["client"])
    if scope["path"] == "/body":
        os.write(1, b"begun\\n")
        body = (await receive())["body"].decode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
"""


@dataclass
class Served:
    """A running `everycore serve` and its port."""

    program: Program
    port: int

    def connect(self, port: int | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=scaled(20))

    def get(self, path: str = "/", *, port: int | None = None) -> str:
        """The answer to one request on a new connection. port: another port of the service."""
        connection = self.connect(port)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def begin(self) -> socket.socket:
        """Send a request whose body is still to come, and wait until the application has begun on it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=scaled(20))
        sock.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        self.program.expect("^begun")
        return sock


def metrics_port(program: Program) -> int:
    """That of `--metrics 127.0.0.1:0`."""
    return int(re.findall(r"metrics and health on http://127\.0\.0\.1:(\d+)", program.stderr)[0])


def observer_pid(primary: int) -> int:
    """That of the process that answers for metrics and health."""
    return next(pid for pid in descendants(primary) if "everycore/observer/" in command_line(pid))


def finish(sock: socket.socket) -> bytes:
    """Send the body after all. Returns the response, up to the end of the connection."""
    with sock:
        sock.sendall(b"ok")
        return b"".join(iter(lambda: sock.recv(65536), b""))


def command(*options: str, app: str = "main:app") -> list[str]:
    # -P, as for the installed command: the working directory is not on sys.path.
    return [sys.executable, "-P", "-m", "everycore", "serve", "--bind", "127.0.0.1:0", *options, app]


def wait_serving(program: Program) -> Served:
    found = program.expect(r"serving .* on http://127\.0\.0\.1:(\d+)", stream="stderr")
    program.expect("ready: all", stream="stderr")
    return Served(program, int(found[1]))


def complaint(program: Program) -> list[str]:
    """What it printed about its end, without log lines."""
    return [line for line in program.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
