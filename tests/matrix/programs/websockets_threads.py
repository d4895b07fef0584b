"""websockets: a server of threads."""

import sys

from answer import slow, who
from websockets.sync.server import serve


def handle(websocket):
    for message in websocket:
        client = websocket.remote_address[0]
        websocket.send(slow(client) if message == "slow" else who(client))


with serve(handle, "127.0.0.1", int(sys.argv[1])) as server:
    server.serve_forever()
