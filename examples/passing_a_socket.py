"""The primary accepts connections, reads a little, and passes each connection on with a message.

python examples/passing_a_socket.py [port]: odd visitors go to worker 1, even ones to worker 2. (A program
does not need this to spread connections evenly: then it listens in the workers, as the other examples do.)
"""

import asyncio
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def primary():
    async with everycore.Cluster() as cluster:
        workers = [cluster.fork(), cluster.fork()]
        with everycore.listen(("127.0.0.1", PORT)) as listener:  # in the primary: an ordinary socket
            listener.setblocking(False)
            print("listening on {}:{}".format(*listener.getsockname()), flush=True)
            visitor = 0
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                visitor += 1
                # From here on the connection is the worker's: the primary has detached it and need not close
                # it.
                await workers[(visitor - 1) % 2].send({"visitor": visitor}, connection)


async def worker():
    me = everycore.current_worker()
    async for message in me.messages():
        _, writer = await asyncio.open_connection(sock=message.handle)
        writer.write(f"visitor {message.message['visitor']}, served by worker {me.id}\n".encode())
        writer.close()


if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
