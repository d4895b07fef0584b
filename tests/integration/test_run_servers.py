"""`everycore run`: servers of the standard library and of third parties, unchanged."""

import pytest

from tests.kit.folders import EXAMPLES
from tests.kit.running import (
    Running,
    ask,
    command,
    everybody_answers_http,
    make_certificate,
    run,
)

# Plain sockets

HEAD = """
import os, select, selectors, socket, socketserver, sys, threading

def answer(conn):
    with conn:
        conn.recv(100)
        conn.sendall(b"%d" % os.getpid())
"""

PLAIN = {
    "blocking": """
with socket.create_server(("127.0.0.1", 0)) as sock:
    while True:
        answer(sock.accept()[0])
""",
    "by hand": """
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("localhost", 0))
sock.listen()
while True:
    answer(sock.accept()[0])
""",
    "time out": """
sock = socket.create_server(("127.0.0.1", 0))
sock.settimeout(0.01)
while True:
    try:
        conn, _ = sock.accept()
    except TimeoutError:
        continue
    answer(conn)
""",
    "select": """
sock = socket.create_server(("127.0.0.1", 0))
sock.setblocking(False)
while True:
    select.select([sock], [], [])
    try:
        conn, _ = sock.accept()
    except BlockingIOError:
        continue
    conn.setblocking(True)
    answer(conn)
""",
    "edge-triggered epoll": """
sock = socket.create_server(("127.0.0.1", 0))
sock.setblocking(False)
epoll = select.epoll()
epoll.register(sock, select.EPOLLIN | select.EPOLLET)
while True:
    epoll.poll()
    while True:
        try:
            conn, _ = sock.accept()
        except BlockingIOError:
            break
        conn.setblocking(True)
        answer(conn)
""",
    "threads in accept": """
sock = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        answer(sock.accept()[0])
for _ in range(3):
    threading.Thread(target=serve, daemon=True).start()
threading.Event().wait()
""",
    "threads only": """
sock = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        answer(sock.accept()[0])
threading.Thread(target=serve).start()
""",
    "socketserver": """
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        answer(self.request)
with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
""",
    "threading socketserver": """
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(b"%d" % os.getpid())
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
""",
    "forking socketserver": """
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        self.request.sendall(b"%d" % os.getppid())
with socketserver.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
""",
    "children that accept": """
sock = socket.create_server(("127.0.0.1", 0))
parent = os.getpid()
for _ in range(2):
    if os.fork() == 0:
        while True:
            conn, _ = sock.accept()
            with conn:
                conn.recv(100)
                conn.sendall(b"%d" % parent)
while True:
    os.wait()
""",
    "duplicate": """
sock = socket.create_server(("127.0.0.1", 0))
copy = sock.dup()
sock.close()
other = socket.socket(fileno=copy.detach())
while True:
    answer(other.accept()[0])
""",
    "number": """
sock = socket.create_server(("127.0.0.1", 0))
copy = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
sock.close()
while True:
    answer(copy.accept()[0])
""",
    "IPv6": """
sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
while True:
    answer(sock.accept()[0])
""",
    "dual stack": """
sock = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    answer(sock.accept()[0])
""",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("server", PLAIN, ids=[name.replace(" ", "_") for name in PLAIN])
def test_plain_sockets(start_command, tmp_path, server, policy):
    # "children that accept" are not workers, and are killed with the program, which does not wait for them.
    running = run(start_command, tmp_path, HEAD + PLAIN[server], options=["--policy", policy, "--grace", "5"])
    host = "::1" if server == "IPv6" else "127.0.0.1"
    running.everybody_answers(running.port(), host=host)
    if server != "children that accept":
        assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", ["listening", "bound"])
def test_tls_listener(start_command, tmp_path, order):
    source = (
        HEAD
        + f"""
import ssl
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain({make_certificate(tmp_path)!r})
sock = socket.socket()
sock.bind(("127.0.0.1", 0))
if {order == "listening"}:
    sock.listen()
    sock = tls.wrap_socket(sock, server_side=True)
else:
    sock = tls.wrap_socket(sock, server_side=True)
    sock.listen()
while True:
    answer(sock.accept()[0])
"""
    )
    running = run(start_command, tmp_path, source)
    running.everybody_answers(running.port(), tls=True)
    assert running.program.finish() == 0


# Servers


@pytest.mark.slow
def test_the_example(start_command, tmp_path):
    example = EXAMPLES / "plain_server.py"
    running = Running(start_command(command(str(example), "0"), cwd=tmp_path), workers=2)
    everybody_answers_http(running, running.port())
    assert running.program.finish() == 0


HTTP = {
    "http.server": """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % os.getpid())
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", 0), Handler).serve_forever()
""",
    "wsgiref": """
from wsgiref.simple_server import make_server
make_server("127.0.0.1", 0, app).serve_forever()
""",
    "waitress": """
import waitress
waitress.serve(app, listen="127.0.0.1:0")
""",
    "aiohttp": """
from aiohttp import web
async def answer(request):
    return web.Response(text=str(os.getpid()))
application = web.Application()
application.router.add_get("/", answer)
web.run_app(application, host="127.0.0.1", port=0, print=None)
""",
    "tornado": """
import asyncio, tornado.web
class Main(tornado.web.RequestHandler):
    def get(self):
        self.write(str(os.getpid()))
async def main():
    tornado.web.Application([("/", Main)]).listen(0, "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
""",
    "uvicorn": """
import uvicorn
uvicorn.run(asgi, port=0, loop="asyncio", log_level="error")
""",
    "uvicorn on uvloop": """
import uvicorn
uvicorn.run(asgi, port=0, loop="uvloop", log_level="error")
""",
    "hypercorn": """
import asyncio, hypercorn.asyncio, hypercorn.config
config = hypercorn.config.Config()
config.bind = ["127.0.0.1:0"]
asyncio.run(hypercorn.asyncio.serve(asgi, config))
""",
    "hypercorn on trio": """
import trio, hypercorn.trio, hypercorn.config
config = hypercorn.config.Config()
config.bind = ["127.0.0.1:0"]
trio.run(hypercorn.trio.serve, asgi, config)
""",
}

APPLICATIONS = """
import os, sys

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("graceful end", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""


@pytest.mark.slow
@pytest.mark.parametrize("server", HTTP, ids=[name.replace(" ", "_") for name in HTTP])
def test_http_servers(start_command, tmp_path, server):
    for module in ("waitress", "aiohttp", "tornado", "uvicorn", "uvloop", "hypercorn", "trio"):
        if module in server:
            pytest.importorskip(module)
    running = run(start_command, tmp_path, APPLICATIONS + HTTP[server])
    everybody_answers_http(running, running.port())
    assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr
    if "uvicorn" in server:  # its own handler of SIGTERM
        assert running.program.stdout.count("graceful end") == 2


STREAMS = {
    "trio": "trio.run(trio.serve_tcp, answer_trio, 0)",
    "anyio": "anyio.run(main)",
    "anyio on trio": "anyio.run(main, backend='trio')",
}


@pytest.mark.slow
@pytest.mark.parametrize("server", STREAMS, ids=[name.replace(" ", "_") for name in STREAMS])
def test_trio_and_anyio(start_command, tmp_path, server):
    for module in ("trio", "anyio"):
        if module in server:
            pytest.importorskip(module)
    modules = ", ".join(module for module in ("trio", "anyio") if module in STREAMS[server])
    source = f"""
import os, {modules}

async def answer_trio(stream):
    await stream.receive_some(100)
    await stream.send_all(b"%d" % os.getpid())
    await stream.aclose()

async def answer(stream):
    async with stream:
        await stream.receive(100)
        await stream.send(b"%d" % os.getpid())

async def main():
    await (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).serve(answer)

{STREAMS[server]}
"""
    running = run(start_command, tmp_path, source)
    running.everybody_answers(running.port())
    assert running.program.finish() == 0


def test_a_dead_worker_is_replaced_and_the_port_stays(start_command, tmp_path):
    source = (
        HEAD
        + """
sock = socket.create_server(("127.0.0.1", 0))
while True:
    conn, _ = sock.accept()
    if conn.recv(100) == b"die\\n":
        os._exit(1)
    conn.sendall(b"%d" % os.getpid())
    conn.close()
"""
    )
    running: Running = run(start_command, tmp_path, source)
    port = running.port()
    first = running.everybody_answers(port)
    assert ask(port, request="die") == ""
    running.program.expect("ended: exit status 1", stream="stderr")
    seen: set[str] = set()
    while not seen - first:
        seen.add(ask(port))
    assert running.program.finish() == 0
