"""channel.py NOTES TRIPS WINDOW HANDLES: a primary and one worker measure their channel.

bench/node/channel.js does the same. Both sides take messages by callback, the only way that Node has.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import everycore

TEXT = "a small message, such as programs send"
NOTES, TRIPS, WINDOW, HANDLES = (int(word) for word in sys.argv[1:])


class Side:
    """The common part of primary and worker. `peer` is a `Worker` there and the `WorkerContext` here."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.left = 0
        self.to_send = 0
        self.over = asyncio.Event()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        peer.on(everycore.Message, self.take)
        peer.answer(self.answer)

    def take(self, message: everycore.Message) -> None:
        body = message.message
        match body["do"]:
            case "note":
                self.left -= 1
                if not self.left:
                    self.over.set()
            case "trip":
                self.peer.send_nowait({"do": "back", "n": body["n"], "text": TEXT})
            case "back":
                self.back()
            case "handle":
                if isinstance(message.handle, socket.socket):
                    message.handle.send(b"%d" % body["n"])
                    message.handle.close()
            case "expect":
                self.expect(body["count"])
                self.start(self.tell())
            case "flood":
                self.start(self.flood(body["count"]))
            case "hand":
                self.start(self.hand_and_reply(body["count"]))
            case "reply":
                self.replies.put_nowait(body["value"])

    async def answer(self, message: Any, handle: Any) -> Any:
        return message

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def flood(self, count: int) -> None:
        for number in range(count):
            await self.peer.send({"do": "note", "n": number, "text": TEXT})

    def expect(self, count: int) -> None:
        self.left = count
        self.over.clear()

    async def tell(self) -> None:
        await self.over.wait()
        await self.reply(None)

    async def reply(self, value: Any) -> None:
        await self.peer.send({"do": "reply", "value": value})

    def back(self) -> None:
        """An echo came: send the next message, or finish."""
        self.left -= 1
        if self.to_send:
            self.to_send -= 1
            self.peer.send_nowait({"do": "trip", "n": self.to_send, "text": TEXT})
        elif not self.left:
            self.over.set()

    async def trips(self, count: int, window: int) -> None:
        self.left, self.to_send = count, count - window
        self.over.clear()
        for number in range(window):
            self.peer.send_nowait({"do": "trip", "n": number, "text": TEXT})
        await self.over.wait()

    async def requests(self, count: int, window: int) -> None:
        async def one_after_the_other() -> None:
            for number in range(count // window):
                await self.peer.request({"n": number, "text": TEXT}, timeout=30)

        await asyncio.gather(*(one_after_the_other() for _ in range(window)))

    async def hand(self, count: int) -> int:
        """Give away one end of each pair. Returns how many answered with their own number."""
        kept = []
        for number in range(count):
            mine, theirs = socket.socketpair()
            mine.setblocking(False)
            kept.append(mine)
            await self.peer.send({"do": "handle", "n": number}, theirs)
        loop = asyncio.get_running_loop()
        good = 0
        for number, mine in enumerate(kept):
            async with asyncio.timeout(10):
                good += await loop.sock_recv(mine, 64) == b"%d" % number
            mine.close()
        return good

    async def hand_and_reply(self, count: int) -> None:
        await self.reply(await self.hand(count))


async def rate(count: int, work: Callable[[], Awaitable[Any]]) -> float:
    start = time.perf_counter()
    await work()
    return count / (time.perf_counter() - start)


async def primary() -> None:
    async with everycore.Cluster(grace=1.0) as cluster:
        side = Side(cluster.fork())
        order = side.peer.send

        async def to_primary() -> None:
            side.expect(NOTES)
            await order({"do": "flood", "count": NOTES})
            await side.over.wait()

        async def to_worker() -> None:
            await order({"do": "expect", "count": NOTES})
            await side.flood(NOTES)
            await side.replies.get()

        async def hand_both() -> None:
            await order({"do": "hand", "count": HANDLES})
            found["handles_both"] = await side.hand(HANDLES) + await side.replies.get()

        async def hand_to_primary() -> None:
            await order({"do": "hand", "count": HANDLES})
            found["handles_to_primary"] = await side.replies.get()

        async def hand_to_worker() -> None:
            found["handles_to_worker"] = await side.hand(HANDLES)

        found: dict[str, float] = {}
        await side.trips(500, 1)  # warms up, and waits for the worker
        found["to_primary"] = await rate(NOTES, to_primary)
        found["to_worker"] = await rate(NOTES, to_worker)
        found["trips"] = await rate(TRIPS, lambda: side.trips(TRIPS, 1))
        found["trips_windowed"] = await rate(TRIPS, lambda: side.trips(TRIPS, WINDOW))
        found["requests"] = await rate(TRIPS, lambda: side.requests(TRIPS, 1))
        found["requests_windowed"] = await rate(
            TRIPS // WINDOW * WINDOW, lambda: side.requests(TRIPS, WINDOW)
        )
        found["handles_to_worker_rate"] = await rate(HANDLES, hand_to_worker)
        found["handles_to_primary_rate"] = await rate(HANDLES, hand_to_primary)
        found["handles_both_rate"] = await rate(2 * HANDLES, hand_both)
        print(json.dumps(found), flush=True)


async def worker() -> None:
    context = everycore.current_worker()
    side = Side(context)
    assert side.peer is context
    await context.wait_shutdown()


if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker(), loop="asyncio")
