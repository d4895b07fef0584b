"""Sanic: its command line, in one process."""

from answer import slow_async, who
from sanic import Sanic
from sanic.response import text

app = Sanic("matrix")


@app.get("/")
async def index(request):
    return text(who(request.ip))


@app.get("/slow")
async def wait(request):
    return text(await slow_async(request.ip))
