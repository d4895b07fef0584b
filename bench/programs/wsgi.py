"""wsgi.py BRIDGE: a WSGI application in one worker, under that bridge or engine, on a socket of the primary.

Bridges, each under uvicorn: `everycore` (that of `everycore serve`), `a2wsgi`, `asgiref`. Engines:
`waitress`, `cheroot`. Each has THREADS threads if it has such a setting.
"""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import everycore

THREADS = 10
CHUNK, CHUNKS = b"x" * 65536, 16
#: Complaints of the validator about an iterable that was not closed: it makes them in `__del__`.
complaints: list[str] = []
closed, go, begun = threading.Event(), threading.Event(), threading.Event()
barrier = threading.Barrier(4)


def app(environ: Any, start_response: Any) -> Any:
    """Each path runs the function below of the same name."""
    return PATHS[environ["PATH_INFO"]](environ, start_response)


def down(_environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", str(len(CHUNK) * CHUNKS))])
    return (CHUNK for _ in range(CHUNKS))


def up(environ: Any, start_response: Any) -> list[bytes]:
    size = 0
    while part := environ["wsgi.input"].read(65536):
        size += len(part)
    return answer(start_response, b"%d" % size)


def first(environ: Any, start_response: Any) -> list[bytes]:
    """Reports when it has the first byte."""
    environ["wsgi.input"].read(1)
    begun.set()
    return answer(start_response, b"yes")


def together(_environ: Any, start_response: Any) -> list[bytes]:
    """Waits for three other requests."""
    try:
        barrier.wait(3)
    except threading.BrokenBarrierError:
        return answer(start_response, b"no")
    return answer(start_response, b"yes")


def changed(_environ: Any, start_response: Any) -> list[bytes]:
    """Raises after it has given its head."""
    start_response("200 OK", [("Content-Length", "2")])
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oh", [("Content-Length", "2")], sys.exc_info())
    return [b"no"]


def streamed(_environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "2")])
    return stream()


def never_ending(_environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return endless()


def found(_environ: Any, start_response: Any) -> list[bytes]:
    gc.collect()
    return answer(start_response, b"%d" % len(complaints))


def says(event: threading.Event) -> Any:
    """Waits a while for the event. Returns whether it came."""
    return lambda _environ, start_response: answer(start_response, b"yes" if event.wait(3) else b"no")


def goes(_environ: Any, start_response: Any) -> list[bytes]:
    go.set()
    return answer(start_response, b"yes")


def small(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def answer(start_response: Any, body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def stream() -> Iterator[bytes]:
    yield b"a"
    go.wait(3)
    yield b"b"


def endless() -> Iterator[bytes]:
    pause = threading.Event()
    try:
        for _ in range(1000):
            yield b"x" * 1024
            pause.wait(0.01)
    finally:
        closed.set()


PATHS = {
    "/small": small,
    "/down": down,
    "/up": up,
    "/valid": validator(small),
    "/complaints": found,
    "/first": first,
    "/begun": says(begun),
    "/stream": streamed,
    "/go": goes,
    "/endless": never_ending,
    "/closed": says(closed),
    "/together": together,
    "/changed": changed,
}


async def by_uvicorn(bridge: str) -> None:
    import uvicorn

    asgi: Any
    if bridge == "everycore":
        from everycore.servers.wsgi import WsgiApp

        asgi = WsgiApp(app, THREADS)
    elif bridge == "a2wsgi":
        from a2wsgi import WSGIMiddleware

        asgi = WSGIMiddleware(app, workers=THREADS)
    else:
        from asgiref.wsgi import WsgiToAsgi

        asgi = WsgiToAsgi(app)
    config = uvicorn.Config(asgi, lifespan="off", access_log=False, log_level="critical")
    await uvicorn.Server(config).serve(sockets=[everycore.listen(("127.0.0.1", 0))])


def by_waitress() -> None:
    import waitress  # type: ignore[import-untyped]

    waitress.create_server(app, sockets=[everycore.listen(("127.0.0.1", 0))], threads=THREADS).run()


def by_cheroot() -> None:
    from cheroot.wsgi import Server

    class OnOurs(Server):  # type: ignore[misc,unused-ignore] # where it is not installed
        def bind(self, *_: Any) -> Any:
            self.socket = everycore.listen(("127.0.0.1", 0))
            return self.socket

    OnOurs(("127.0.0.1", 0), app, numthreads=THREADS, request_queue_size=2048).start()


async def primary() -> None:
    async with everycore.Cluster(grace=1.0) as cluster:
        events = cluster.events(everycore.Listening, everycore.Exited)
        worker = cluster.fork()
        async for event in events:
            if isinstance(event, everycore.Exited):
                raise SystemExit(f"the worker ended: {event.status}")
            assert isinstance(event, everycore.Listening)
            print(json.dumps({"port": event.address[1], "workers": [worker.pid]}), flush=True)
            break
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, over.set)
        await over.wait()
        asyncio.get_running_loop().remove_reader(sys.stdin)


if __name__ == "__main__":
    sys.unraisablehook = lambda found: complaints.append(str(found.exc_value))
    if everycore.is_primary:
        everycore.run(primary())
    elif sys.argv[1] == "waitress":
        by_waitress()
    elif sys.argv[1] == "cheroot":
        by_cheroot()
    else:
        everycore.run(by_uvicorn(sys.argv[1]), loop="uvloop")
