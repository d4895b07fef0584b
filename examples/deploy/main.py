"""The application that the files of this folder serve: it says who asks, and answers /healthz."""

import asyncio
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI. /slow/SECONDS answers after that time."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    path = scope["path"]
    if path.startswith("/slow/"):
        await asyncio.sleep(float(path.rpartition("/")[2]))
    client = scope["client"][0] if scope["client"] else "nobody"
    body = f"{client} {scope['scheme']} {path}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
