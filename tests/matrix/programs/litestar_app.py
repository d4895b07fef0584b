"""Litestar: `litestar run`."""

from answer import slow_async, who
from litestar import Litestar, Request, get


@get("/", sync_to_thread=False)
def index(request: Request) -> str:
    return who(request.client.host)


@get("/slow")
async def wait(request: Request) -> str:
    return await slow_async(request.client.host)


app = Litestar([index, wait])
