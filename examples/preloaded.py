"""Workers that are forked from a mold and share its memory: send a number, get its square.

python examples/preloaded.py [port], then `nc 127.0.0.1 8000` and type: 7
"""

import asyncio
import os
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000

#: Large, slow to make, and never changed: a good thing to share.
TABLE: dict[int, int] = {}
MAKERS: list[int] = []


def load():
    """Runs once in the mold, which has imported this file as the module `preloaded`."""
    TABLE.update({number: number * number for number in range(100_000)})
    MAKERS.append(os.getpid())


@everycore.after_fork
def begin():
    """Runs in each worker before `main`: the place to make connections anew and to seed generators."""


async def answer(reader, writer):
    import preloaded  # type: ignore[import-not-found]  # as the mold has it; the file that runs is `__main__`

    number = int(await reader.readline())
    writer.write(f"{preloaded.TABLE[number]} by {os.getpid()} made by {preloaded.MAKERS[0]}\n".encode())
    await writer.drain()
    writer.close()


async def primary():
    settings = everycore.Settings(preload="preloaded:load")
    async with everycore.Pool(2, settings=settings) as pool:
        async for event in pool.events(everycore.Listening):
            print("worker {} listens on {}:{}".format(event.worker.id, *event.address), flush=True)


async def worker():
    server = await asyncio.start_server(answer, "127.0.0.1", PORT)
    await server.serve_forever()


if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
