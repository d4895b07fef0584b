"""`everycore serve` and WSGI applications: loading, logging, and clients that leave."""

import socket

import pytest

from tests.kit import scaled

pytestmark = pytest.mark.slow

RUNS_A_COROUTINE = """
    import asyncio

    async def settings():
        await asyncio.sleep(0)
        return b"hello"

    GREETING = asyncio.run(settings())

    def events():
        try:
            while True:
                yield b"data: tick\\n\\n"
        finally:
            print("closed", flush=True)

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return events() if environ["PATH_INFO"] == "/events" else [GREETING]
"""

NEEDS_THE_LOOP = """
    import asyncio

    LOOP = asyncio.get_running_loop()

    async def app(scope, receive, send):
        body = b"mine" if asyncio.get_running_loop() is LOOP else b"another"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


def test_a_client_that_leaves_a_stream_frees_its_thread(serve):
    """The application runs a coroutine while it is imported, as it can under every WSGI server."""
    served = serve("--threads", "1", workers=1, source=RUNS_A_COROUTINE)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", served.port), timeout=scaled(20)) as sock:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
        served.program.expect("^closed", stream="stdout")
    assert served.get() == "hello"
    assert served.program.finish() == 0


@pytest.mark.parametrize("interface", ["auto", "asgi"])
@pytest.mark.parametrize("ask", ["get_running_loop", "get_event_loop"])
def test_an_application_may_ask_for_the_loop_while_it_is_imported(serve, ask, interface):
    """As under uvicorn, it gets the loop that later serves it."""
    source = NEEDS_THE_LOOP.replace("LOOP = asyncio.get_running_loop()", f"LOOP = asyncio.{ask}()")
    served = serve("--interface", interface, workers=1, source=source)
    assert served.get() == "mine"
    assert served.program.finish() == 0


def test_what_is_named_as_wsgi_gets_no_running_loop(start):
    program = start("--interface", "wsgi", source=NEEDS_THE_LOOP)
    program.expect("RuntimeError: no running event loop", stream="stderr")
    assert program.wait() == 3


def test_mistakes_in_the_applications_own_logging_are_told(serve):
    source = """
        import logging

        logging.basicConfig()

        def app(environ, start_response):
            logging.getLogger("shop").warning("%d items", "three")
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"fine"]
    """
    served = serve(workers=1, source=source)
    assert served.get() == "fine"
    served.program.expect("Logging error", stream="stderr")
    served.program.expect("Arguments: ..three", stream="stderr")
    assert served.program.finish() == 0
