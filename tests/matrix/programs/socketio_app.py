"""python-socketio: an ASGI application, by uvicorn; WebSocket alone."""

import socketio
from answer import slow_async, who

sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
app = socketio.ASGIApp(sio)


def client_of(sid):
    return sio.get_environ(sid)["asgi.scope"]["client"][0]


@sio.on("who")
async def on_who(sid):
    return who(client_of(sid))


@sio.on("slow")
async def on_slow(sid):
    return await slow_async(client_of(sid))
