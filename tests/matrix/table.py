"""The matrix: third-party programs, each as in its own documentation, started by `everycore run`.

One row says how a program is started, how it is asked, and what is known about it. The tests beside this
file try each row under both policies, and write `results.json`; docs/make_servers.py draws the page of
servers from that. The packages are pinned in the group `matrix` of pyproject.toml.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

POLICIES = ("round_robin", "shared")

#: The properties that are tried with each program, and how the page describes them.
PROPERTIES = {
    "all": "each worker answers",
    "spread": "workers get equally many connections, made one by one, to within a tenth on an idle machine",
    "address": "the program knows its client's address",
    "killed": "a worker that is killed is replaced",
    "reload": "a reload replaces all workers",
    "lossless": "no client is refused or cut off while workers come and go",
    "slow": "requests that came before a stop are answered",
    "in use": "an address in use is reported in one sentence",
    "clean": "no process, listener or file is left behind",
    "quiet": "no traceback is printed",
}


@dataclass(frozen=True)
class Row:
    """A program of the matrix."""

    name: str
    #: The distribution; "python" for the standard library.
    package: str
    #: Behind `everycore run`: words with {port}, {path}, {pem} (a certificate and its key).
    command: str
    #: How it is asked: a name of `tests.kit.matrix_probes`.
    probe: str = "http"
    #: The event loop or threads in a worker.
    loop: str = "asyncio"
    is_tls: bool = False
    is_unix: bool = False
    #: Environment variables that it needs.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Properties that it does not have, and why: "spread" or, for one policy alone, "shared spread".
    but: Mapping[str, str] = field(default_factory=dict)
    #: What its operator should know.
    note: str = ""

    def exception(self, what: str, policy: str) -> str | None:
        """Why it lacks the property `what` under `policy`; None if it has the property."""
        return self.but.get(what) or self.but.get(f"{policy} {what}")


REUSEPORT = {
    "spread": "the kernel spreads connections (SO_REUSEPORT)",
    "lossless": "connections that wait for a worker that leaves are reset",
    "in use": "the server itself reports an address in use, once for each worker",
}
DATAGRAMS = {
    "spread": "the kernel gives each datagram to one of the waiting workers",
    "lossless": "a datagram that a worker has read when it leaves is lost",
    "slow": "a stop does not wait for datagrams, as it does for connections",
}

OWN_SIGTERM = dict.fromkeys(("slow", "lossless"), "its own handler of SIGTERM aborts requests in progress")

ROWS = (
    # asyncio, uvloop, trio, anyio
    Row("asyncio", "python", "asyncio_streams.py tcp {port}", "line"),
    Row("asyncio, TLS", "python", "asyncio_streams.py tls {port} {pem}", "line", is_tls=True),
    Row("asyncio, unix", "python", "asyncio_streams.py unix {path}", "line", is_unix=True),
    Row("asyncio, UDP", "python", "asyncio_datagrams.py {port}", "udp", but=DATAGRAMS),
    Row("uvloop", "uvloop", "asyncio_streams.py uvloop {port}", "line", "uvloop"),
    Row("trio", "trio", "trio_tcp.py {port}", "line", "trio"),
    Row("anyio", "anyio", "anyio_tcp.py {port} asyncio", "line"),
    Row("anyio on trio", "anyio", "anyio_tcp.py {port} trio", "line", "trio"),
    # ASGI servers
    Row(
        "uvicorn", "uvicorn", "-m uvicorn asgi_app:app --port {port}", loop="uvloop",
        note="no `--workers`, no `--reload`",
    ),
    Row(
        "uvicorn, TLS", "uvicorn",
        "-m uvicorn asgi_app:app --port {port} --ssl-certfile {pem} --ssl-keyfile {pem}",
        loop="uvloop", is_tls=True,
    ),
    Row("uvicorn, unix", "uvicorn", "-m uvicorn asgi_app:app --uds {path}", loop="uvloop", is_unix=True),
    Row(
        "hypercorn", "hypercorn", "-m hypercorn --workers 0 --bind 127.0.0.1:{port} asgi_app:app",
        note="with `--workers 0`, and no `--reload`",
    ),
    Row(
        "hypercorn, TLS", "hypercorn",
        "-m hypercorn --workers 0 --certfile {pem} --keyfile {pem} --bind 127.0.0.1:{port} asgi_app:app",
        is_tls=True,
    ),
    Row(
        "hypercorn on trio", "hypercorn",
        "-m hypercorn --workers 0 -k trio --bind 127.0.0.1:{port} asgi_app:app_on_trio", loop="trio",
    ),
    Row("daphne", "daphne", "-m daphne -p {port} asgi_app:app", loop="Twisted on asyncio", but=OWN_SIGTERM),
    Row(
        "granian", "granian", "-m granian --interface asgi --port {port} asgi_app:app", loop="Rust",
        but=REUSEPORT,
    ),
    # WSGI servers
    Row(
        "gunicorn", "gunicorn", "-m gunicorn -b 127.0.0.1:{port} wsgi_app:app", loop="forks",
        note="one worker of its own (`--workers 1`, its default)",
    ),
    Row(
        "gunicorn, threads", "gunicorn",
        "-m gunicorn -k gthread --threads 4 -b 127.0.0.1:{port} wsgi_app:app", loop="forks, threads",
    ),
    Row(
        "gunicorn, uvicorn", "gunicorn",
        "-m gunicorn -k uvicorn.workers.UvicornWorker -b 127.0.0.1:{port} asgi_app:app", loop="forks, uvloop",
    ),
    Row("gunicorn, unix", "gunicorn", "-m gunicorn -b unix:{path} wsgi_app:app", loop="forks", is_unix=True),
    Row("waitress", "waitress", "-m waitress --listen=127.0.0.1:{port} wsgi_app:app", loop="threads"),
    Row("cheroot", "cheroot", "-m cheroot wsgi_app:app --bind 127.0.0.1:{port}", loop="threads"),
    Row("cheroot, TLS", "cheroot", "cheroot_tls.py {port} {pem}", loop="threads", is_tls=True),
    Row("gevent", "gevent", "gevent_pywsgi.py {port}", loop="gevent", note="`monkey.patch_all()` or not"),
    Row("gevent, streams", "gevent", "gevent_stream.py {port}", "line", "gevent"),
    Row(
        "eventlet", "eventlet", "eventlet_wsgi.py {port}", loop="eventlet",
        but=REUSEPORT, env={"EVENTLET_NO_GREENDNS": "yes"},
    ),
    # Frameworks
    Row(
        "FastAPI", "fastapi", "-m fastapi run --host 127.0.0.1 --port {port} {programs}/fastapi_app.py",
        loop="uvloop", note="no `--workers`; not `fastapi dev`",
    ),
    Row("Starlette", "starlette", "starlette_app.py {port}"),
    Row("Litestar", "litestar", "-m litestar --app litestar_app:app run --port {port}", loop="uvloop"),
    Row(
        "Django, runserver", "django", "django_site.py runserver --noreload {port}", loop="threads",
        note="with `--noreload`",
    ),
    Row("Django, ASGI", "django", "-m uvicorn django_site:asgi --port {port}", loop="uvloop"),
    Row("Django, WSGI", "django", "-m waitress --listen=127.0.0.1:{port} django_site:wsgi", loop="threads"),
    Row(
        "Flask, flask run", "flask", "-m flask --app flask_app run --port {port}", loop="threads",
        note="no `--debug`, or with `--no-reload`",
    ),
    Row("Flask, app.run", "flask", "flask_app.py {port}", loop="threads"),
    Row("Quart", "quart", "-m quart --app quart_app run --port {port}"),
    Row("BlackSheep", "blacksheep", "-m uvicorn blacksheep_app:app --port {port}", loop="uvloop"),
    Row("Falcon", "falcon", "falcon_app.py {port}", loop="one at a time"),
    Row("Pyramid", "pyramid", "pyramid_app.py {port}", loop="threads"),
    Row("Bottle", "bottle", "bottle_app.py {port}", loop="one at a time"),
    Row(
        "CherryPy", "cherrypy", "cherrypy_app.py {port}", loop="threads",
        but={"in use": REUSEPORT["in use"]},
    ),
    Row("aiohttp, TCPSite", "aiohttp", "aiohttp_sites.py tcp {port}"),
    Row("aiohttp, SockSite", "aiohttp", "aiohttp_sites.py sock {port}"),
    Row("aiohttp, UnixSite", "aiohttp", "aiohttp_sites.py unix {path}", is_unix=True),
    Row("aiohttp, run_app", "aiohttp", "aiohttp_sites.py run_app {port}"),
    Row("aiohttp, TLS", "aiohttp", "aiohttp_sites.py tls {port} {pem}", is_tls=True),
    Row("Tornado", "tornado", "tornado_app.py {port}"),
    Row("Tornado, TLS", "tornado", "tornado_app.py {port} {pem}", is_tls=True),
    Row(
        "Sanic", "sanic", "-m sanic sanic_app.app --single-process --port {port}", loop="uvloop",
        note="with `--single-process`",
    ),
    Row("Twisted, web", "twisted", "twisted_web.py web {port}", loop="Twisted", but=OWN_SIGTERM),
    Row(
        "Twisted, endpoint", "twisted", "twisted_web.py lines {port}", "line", "Twisted",
        but={**OWN_SIGTERM, "in use": "an endpoint that cannot listen does not end the program"},
    ),
    # The standard library
    Row("http.server", "python", "http_server.py {port}", loop="threads"),
    Row("http.server, TLS", "python", "http_server.py {port} {pem}", loop="threads", is_tls=True),
    Row("socketserver, threads", "python", "socketserver_echo.py threads {port}", "line", "threads"),
    Row("socketserver, forks", "python", "socketserver_echo.py forks {port}", "line", "forks"),
    Row("socketserver, UDP", "python", "socketserver_udp.py {port}", "udp", "one at a time", but=DATAGRAMS),
    Row("xmlrpc.server", "python", "xmlrpc_server.py {port}", "xmlrpc", "one at a time"),
    # Other protocols
    Row("websockets", "websockets", "websockets_asyncio.py {port}", "websocket"),
    Row("websockets, threads", "websockets", "websockets_threads.py {port}", "websocket", "threads"),
    Row(
        "python-socketio", "python-socketio", "-m uvicorn socketio_app:app --port {port}", "socketio",
        "uvloop", but={"slow": "uvicorn closes WebSockets when it is asked to end"},
        note="WebSocket alone, or [sticky](../how-to/sessions.md)",
    ),
    Row(
        "Flask-SocketIO", "flask-socketio", "flask_socketio_app.py {port}", "socketio", "threads",
        note="WebSocket alone, or [sticky](../how-to/sessions.md)",
    ),
    Row("gRPC", "grpcio", "grpcio_server.py threads {port}", "grpc", "C", but=REUSEPORT),
    Row(
        "gRPC, asyncio", "grpcio", "grpcio_server.py aio {port}", "grpc", "C",
        but={**REUSEPORT, "quiet": "it prints a traceback if its loop ends first (`__del__`)"},
    ),
    Row("grpclib", "grpclib", "grpclib_server.py {port}", "grpc", but=OWN_SIGTERM),
    Row("AsyncSSH", "asyncssh", "asyncssh_server.py {port}", "ssh", note="give all workers one host key"),
    Row("aiosmtpd", "aiosmtpd", "aiosmtpd_controller.py {port}", "smtp", "asyncio in a thread"),
    Row(
        "pyftpdlib", "pyftpdlib", "pyftpdlib_server.py {port}", "ftp", "epoll", but={"slow": "not tried"},
        note="a client's data port is its worker's own",
    ),
    Row(
        "aioquic", "aioquic", "aioquic_server.py {port} {pem}", "quic", is_tls=True,
        but={
            **REUSEPORT, "lossless": "a QUIC connection ends with its worker",
            "slow": "a stop does not wait for QUIC connections",
        },
        note="with SO_REUSEPORT, [each client has its worker](../how-to/sessions.md)",
    ),
    Row(
        "MCP's SDK", "mcp", "mcp_server.py {port}", "mcp",
        note="`stateless_http=True`, or [sticky](../how-to/sessions.md)",
    ),
)  # fmt: skip
