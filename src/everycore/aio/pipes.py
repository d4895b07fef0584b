"""A worker's standard streams as asyncio streams.

Turn the blocking pipe ends that `subprocess` gives into a reader and a writer. Both exist at once: `fork` is
not a coroutine, and connecting a pipe to a loop is. Invariant: `close` leaves no descriptor.
"""

from __future__ import annotations

import asyncio
from typing import IO


class _PipeProtocol(asyncio.StreamReaderProtocol):
    """Remembers its transport, which closes the pipe."""

    transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `Protocol.connection_made`."""
        self.transport = transport
        super().connection_made(transport)


class PipeReader(asyncio.StreamReader):
    """A worker's stdout or stderr: an `asyncio.StreamReader`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes]) -> None:
        super().__init__(loop=loop)
        self._pipe = pipe
        self._protocol = _PipeProtocol(self, loop=loop)
        self._connecting = loop.create_task(self._connect(loop))

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        await loop.connect_read_pipe(lambda: self._protocol, self._pipe)

    def feed_eof(self) -> None:
        """As `StreamReader.feed_eof`, and close the pipe: uvloop would keep it half open."""
        super().feed_eof()
        if self._protocol.transport is not None:
            self._protocol.transport.close()

    def close(self) -> None:
        """Stop reading and close the pipe."""
        if not self._connecting.done():
            # The task is not cancelled: uvloop would then close the descriptor, which the file still owns.
            self._connecting.add_done_callback(lambda _: self.close())
            return
        (self._protocol.transport or self._pipe).close()


class PipeWriter:
    """A worker's stdin. `write` never blocks; `await drain()` waits for room."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._loop = loop
        self._writer: asyncio.StreamWriter | None = None
        self._early: list[bytes] = []
        self._connecting = loop.create_task(self._connect())

    async def _connect(self) -> None:
        # Nothing feeds this reader. A StreamWriter needs its protocol for flow control.
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=self._loop), loop=self._loop)
        transport, _ = await self._loop.connect_write_pipe(lambda: protocol, self._pipe)
        self._writer = asyncio.StreamWriter(transport, protocol, None, self._loop)
        self._writer.writelines(self._early)
        self._early.clear()

    def write(self, data: bytes) -> None:
        """Send `data` to the worker's stdin."""
        if self._writer is None:
            self._early.append(bytes(data))
        elif not self._writer.transport.is_closing():  # it saw the worker's end; uvloop then fails to write
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the pipe has room."""
        await asyncio.shield(self._connecting)
        if self._writer is not None:
            await self._writer.drain()

    def close(self) -> None:
        """Close the worker's stdin after sending what was written."""
        if self._writer is not None:
            self._writer.close()
        elif self._connecting.done():
            self._pipe.close()
        else:
            self._connecting.add_done_callback(lambda _: self.close())

    def abort(self) -> None:
        """Close the worker's stdin at once."""
        if not self._connecting.done():
            self._connecting.add_done_callback(lambda _: self.abort())
        elif self._writer is not None:
            transport = self._writer.transport
            # A transport that saw the worker's end has closed itself; asyncio's `abort` then fails.
            if not transport.is_closing() or transport.get_write_buffer_size():
                transport.abort()
        else:
            self._pipe.close()
