"""The application: it reports in JSON what it sees of a request and of its settings."""

import json
import logging
import os

log = logging.getLogger("shop")


def create_app():
    prices: dict[str, int] = {}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await live(receive, send)
        elif scope["type"] == "http":
            log.info("asked for %s", scope["path"])
            client = scope["client"][0] if scope["client"] else None
            seen = {
                "client": client,
                "scheme": scope["scheme"],
                "path": scope["path"],
                "root_path": scope["root_path"],
                "mode": os.environ.get("SHOP_MODE"),
                "prices": prices,
            }
            body = json.dumps(seen).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def live(receive, send):
        await receive()
        prices["tea"] = 3
        await send({"type": "lifespan.startup.complete"})
        await receive()
        log.info("the shop is closed")
        await send({"type": "lifespan.shutdown.complete"})

    return app
