"""BlackSheep, by uvicorn."""

from answer import slow_async, who
from blacksheep import Application, get, text

app = Application()


@get("/")
async def index(request):
    return text(who(request.client_ip))


@get("/slow")
async def wait(request):
    return text(await slow_async(request.client_ip))
