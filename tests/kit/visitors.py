"""Clients that come at a steady rate while something happens to a server, and what became of each.

with Visitors(port, b"hello\n") as visitors:
    ...
assert visitors.lost == []
"""

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.kit.limits import scaled

#: More than these at once, and a busy machine would be given more to do than it can.
MOST = 64


class Visitors:
    """Sends `request` on a connection of its own, `rate` times a second, and reads to the end of the answer.

    `answers`: what was answered, in the order of the ends; `lost`: what happened to those without an answer.
    """

    def __init__(self, port: int, request: bytes, *, rate: float = 200.0) -> None:
        self.answers: list[bytes] = []
        self.lost: list[str] = []
        self._port = port
        self._request = request
        self._pause = 1 / rate
        self._enough = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._come()), name="visitors")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    async def _come(self) -> None:
        loop = asyncio.get_running_loop()
        places = asyncio.Semaphore(MOST)
        visits: set[asyncio.Task[None]] = set()
        begin, number = loop.time(), 0
        while not self._enough.is_set():
            await places.acquire()
            visit = loop.create_task(self._visit(places))
            visits.add(visit)
            visit.add_done_callback(visits.discard)
            number += 1
            # The rate is the subject here: this is no wait for an event.
            await asyncio.sleep(begin + number * self._pause - loop.time())  # noqa: TID251
        await asyncio.gather(*visits)

    async def _visit(self, places: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(scaled(20)):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(self._request)
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as exc:
            self.lost.append(repr(exc))
        else:
            if answer:
                self.answers.append(answer)
            else:
                self.lost.append("no answer")
        finally:
            places.release()
