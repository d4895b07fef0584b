"""A tiny ASGI application that says which worker answers:  everycore serve --app-dir examples hello:app"""

import os

import everycore


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    worker = everycore.current_worker()
    body = f"hello from worker {worker.id} (process {os.getpid()})\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
