"""bare.py shared|reuseport LOOP MODE WORKERS: forks that accept from one socket, or from one each."""

import asyncio
import json
import os
import signal
import socket
import sys

from bench.programs.replies import factory

KIND, LOOP, MODE, WORKERS = sys.argv[1:]


def listener(port: int = 0) -> socket.socket:
    # Like `create_server(host, port)`: asyncio sets TCP_NODELAY only if the protocol is named.
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if KIND == "reuseport":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def serve(me: int, sock: socket.socket, ready: int) -> None:
    server = await asyncio.get_running_loop().create_server(factory(MODE, me), sock=sock, backlog=2048)
    os.write(ready, b".")
    await server.serve_forever()


def main() -> None:
    sock = listener()
    port = sock.getsockname()[1]
    heard, ready = os.pipe()
    workers: list[int] = []
    for me in range(1, int(WORKERS) + 1):
        pid = os.fork()
        if pid == 0:
            mine = sock if KIND == "shared" else listener(port)
            if mine is not sock:
                sock.close()
            factory_of_loop = None
            if LOOP == "uvloop":
                import uvloop

                factory_of_loop = uvloop.new_event_loop
            with asyncio.Runner(loop_factory=factory_of_loop) as runner:
                runner.run(serve(me, mine, ready))
        workers.append(pid)
    sock.close()
    waiting = int(WORKERS)
    while waiting:
        waiting -= len(os.read(heard, waiting))
    print(json.dumps({"port": port, "workers": workers}), flush=True)
    sys.stdin.read()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


main()
