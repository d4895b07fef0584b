"""An ASGI application without a framework."""

from answer import slow_async, who


async def sleep_by_trio(client):
    import os

    import trio

    os.write(1, b"slow\n")
    await trio.sleep(1)
    return who(client)


async def app(scope, receive, send, slow=slow_async):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    client = (scope.get("client") or ["nobody"])[0] or "nobody"
    text = await slow(client) if scope["path"] == "/slow" else who(client)
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def app_on_trio(scope, receive, send):
    await app(scope, receive, send, sleep_by_trio)
