"""Quart: `quart run`."""

from answer import slow_async, who
from quart import Quart, request

app = Quart(__name__)


@app.route("/")
async def index():
    return who(request.remote_addr)


@app.route("/slow")
async def wait():
    return await slow_async(request.remote_addr)
