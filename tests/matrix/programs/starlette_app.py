"""Starlette, by uvicorn.run."""

import sys

import uvicorn
from answer import slow_async, who
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def index(request):
    return PlainTextResponse(who(request.client.host))


async def wait(request):
    return PlainTextResponse(await slow_async(request.client.host))


app = Starlette(routes=[Route("/", index), Route("/slow", wait)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="asyncio", log_level="error")
