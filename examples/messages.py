"""Messages between the primary and its workers: send, request and answer, broadcast.

python examples/messages.py [port], then `nc 127.0.0.1 8000` and type: hello, total, tell everybody something
"""

import asyncio
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def primary():
    total = 0

    def count(message):  # callbacks are plain functions
        nonlocal total
        total += message.message["lines"]

    async def answer(message, _handle):
        match message:
            case {"ask": "total"}:
                return total
            case {"tell": words}:
                return await cluster.broadcast({"news": words})

    async with everycore.Cluster() as cluster:
        cluster.on(everycore.Message, count)
        listening = cluster.events(everycore.Listening)
        for _ in range(2):
            cluster.fork().answer(answer)
        async for event in listening:
            print("worker {} listens on {}:{}".format(event.worker.id, *event.address), flush=True)


async def worker():
    me = everycore.current_worker()

    async def talk(reader, writer):
        async for line in reader:
            await me.send({"lines": 1})  # returns once the message is on its way
            match line.decode().split():
                case ["total"]:
                    reply = await me.request({"ask": "total"}, timeout=5)
                case ["tell", *words]:
                    reply = await me.request({"tell": " ".join(words)}, timeout=5)
                case _:
                    reply = f"hello from worker {me.id}"
            writer.write(f"{reply}\n".encode())
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", PORT):
        async for message in me.messages():  # until the channel closes
            # One write for each line, or else the lines of two workers could mix.
            print(f"worker {me.id} heard: {message.message['news']}\n", end="", flush=True)


if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
