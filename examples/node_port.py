"""node/cluster.js in Python, piece by piece, with the same output: python examples/node_port.py [port]"""

import asyncio
import os
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def primary():
    async with everycore.Cluster() as cluster:
        # Keep track of http requests.
        requests = 0

        def on_message(message):
            nonlocal requests
            requests += message.message["requests"]
            print(f"requests: {requests}", flush=True)

        cluster.on(everycore.Message, on_message)

        def on_listening(event):
            print("worker {} listens on http://{}:{}".format(event.worker.id, *event.address), flush=True)

        cluster.on(everycore.Listening, on_listening)

        # A worker that was not asked to leave is replaced.
        def on_exited(event):
            status = event.signal.name if event.signal else event.code
            voluntary = str(event.voluntary).lower()
            print(f"worker {event.worker.id} exited with {status}, voluntary: {voluntary}", flush=True)
            if not event.voluntary:
                cluster.fork()

        cluster.on(everycore.Exited, on_exited)

        for _ in range(2):
            cluster.fork()
        await asyncio.Event().wait()  # Node's event loop runs by itself; here the program must wait


async def worker():
    # All workers share one address; the primary hands connections to them in turn.
    async def respond(reader, writer):
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        await everycore.current_worker().send({"requests": 1})
        body = f"worker {everycore.current_worker().id}\n"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()
        await writer.wait_closed()

        # A worker ends by request, after its work, or by accident.
        if path == b"/leave":
            everycore.current_worker().disconnect()
        if path == b"/crash":
            os._exit(1)

    server = await asyncio.start_server(respond, "127.0.0.1", PORT)
    await server.serve_forever()


if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
