"""Sockets and files that travel with messages, between two mailboxes over a real socket pair."""

import asyncio
import errno
import gc
import io
import os
import socket

import pytest

from everycore.core.window import WINDOW
from everycore.system.descriptors import Descriptor
from tests.kit import open_fds, turn
from tests.kit.channel_pairs import Boxes, take, until, values


async def test_handles_arrive_as_what_they_are(tmp_path, loop_factory):
    left, right = socket.socketpair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    address = udp.getsockname()
    file = (tmp_path / "file").open("w")
    file.write("buffered")
    async with Boxes() as (primary, worker):
        stream = worker.mailbox.messages()
        for name, handle in (("stream", left), ("datagram", udp), ("file", file)):
            await primary.mailbox.send(name, handle)
        assert left.fileno() == udp.fileno() == -1
        assert file.closed
        with pytest.raises(OSError) as caught:
            primary.mailbox.send("again", left)
        assert caught.value.errno == errno.EBADF
        one, two, three = await take(stream, 3)
        assert (one.handle.family, one.handle.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert (two.handle.family, two.handle.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        assert two.handle.getsockname() == address
        assert isinstance(three.handle, Descriptor)
        assert os.fstat(three.handle.fileno()).st_size == len("buffered")
        one.handle.sendall(b"hello")
        assert right.recv(10) == b"hello"
        await worker.mailbox.send("back", three.handle)
        assert three.handle.fileno() == -1
        [back] = await take(primary.mailbox.messages(), 1)
        for handle in (one.handle, two.handle, back.handle, right):
            handle.close()


async def test_a_kept_handle_stays_usable():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        for _ in range(3):
            await primary.mailbox.send("x", left, keep_open=True)
        for message in await take(worker.mailbox.messages(), 3):
            assert os.fstat(message.handle.fileno()).st_ino == os.fstat(left.fileno()).st_ino
            message.handle.close()
        left.sendall(b"mine")
        assert right.recv(10) == b"mine"
    left.close()
    right.close()


async def test_a_handle_is_duplicated_at_the_call():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        sending = primary.mailbox.send("x", left, keep_open=True)
        left.close()
        await sending
        [message] = await take(worker.mailbox.messages(), 1)
        message.handle.sendall(b"alive")
        assert right.recv(10) == b"alive"
        message.handle.close()
    right.close()


async def test_objects_that_are_not_handles_are_refused():
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    async with Boxes() as (primary, worker):
        shown = writer.get_extra_info("socket")
        for wrong in (writer, writer.transport, shown, 7, "x", reader):
            with pytest.raises(TypeError):
                primary.mailbox.send("x", wrong)
        with pytest.raises((OSError, ValueError)):
            primary.mailbox.send("x", io.BytesIO())
        closed = socket.socket()
        closed.close()
        with pytest.raises(OSError) as caught:
            primary.mailbox.send_nowait("x", closed)
        assert caught.value.errno == errno.EBADF
        await turn(5)
        assert not worker.mailbox._delivery._backlog
    writer.close()
    await writer.wait_closed()
    right.close()


async def test_a_file_that_fails_to_close_is_not_sent(tmp_path):
    class Failing(io.FileIO):
        fails = True

        def close(self):
            super().close()
            if self.fails:
                self.fails = False
                raise OSError(errno.ENOSPC, "full")

    async with Boxes() as (primary, worker):
        with pytest.raises(OSError, match="full"):
            primary.mailbox.send("x", Failing(tmp_path / "file", "w"))
        await turn(5)
        assert not worker.mailbox._delivery._backlog


async def test_a_thousand_handles_each_way_at_once(loop_factory):
    read, write = os.pipe()

    async def send(end, fd):
        handle = Descriptor(os.dup(fd))
        limit = asyncio.Semaphore(100)  # descriptors are scarce: wait until the other side has closed some
        limits[end] = limit
        for number in range(1000):
            await limit.acquire()
            await end.mailbox.send(number, handle if number % 2 else None, keep_open=True)
        handle.close()

    async def receive(end, other):
        async with end.mailbox.messages() as stream:
            for number in range(1000):
                message = await anext(stream)
                assert message.message == number
                assert (message.handle is not None) == bool(number % 2)
                if message.handle:
                    assert os.fstat(message.handle.fileno()).st_ino == os.fstat(read).st_ino
                    message.handle.close()
                limits[other].release()

    async with Boxes() as (primary, worker):
        limits = {}
        await asyncio.gather(
            send(primary, read), send(worker, write), receive(worker, primary), receive(primary, worker)
        )
    os.close(read)
    os.close(write)


async def test_a_handle_goes_to_the_first_stream_else_to_the_first_callback():
    def pipe_end():
        read, write = os.pipe()
        os.close(write)
        return Descriptor(read)

    async with Boxes() as (primary, worker):
        heard = []
        worker.mailbox.on_message(lambda message: heard.append(("a", message.handle)))
        worker.mailbox.on_message(lambda message: heard.append(("b", message.handle)))
        await primary.mailbox.send(1, pipe_end())
        await until(lambda: len(heard) == 2)
        assert [(name, handle is not None) for name, handle in heard] == [("a", True), ("b", False)]
        first, second = worker.mailbox.messages(), worker.mailbox.messages()
        await primary.mailbox.send(2, pipe_end())
        [other] = await take(second, 1)
        [owner] = await take(first, 1)
        assert other.handle is None
        assert isinstance(owner.handle, Descriptor)
        assert [handle for _, handle in heard[2:]] == [None, None]


async def test_a_handle_waits_with_its_message_for_a_taker():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        await primary.mailbox.send("early", left)
        await until(lambda: worker.mailbox._delivery._backlog)
        stream = worker.mailbox.messages()
        await turn(3)
        del stream  # never read: the message and its handle go back
        gc.collect()
        [message] = await take(worker.mailbox.messages(), 1)
        message.handle.close()
    right.close()


async def test_handles_that_are_never_taken_are_closed_counted_and_warned_of_once(caplog):
    pairs = [socket.socketpair() for _ in range(5)]
    async with Boxes() as (primary, worker):
        for left, _ in pairs:
            await primary.mailbox.send("x", left)
        await until(lambda: len(worker.mailbox._delivery._backlog) == 5)
        primary.close()
        await until(lambda: worker.losses)
        assert [right.recv(1) for _, right in pairs] == [b""] * 5
        assert worker.mailbox.dropped_handles == 5
        assert caplog.text.count("taken by nobody") == 1
        # The messages themselves stay.
        assert [(m.message, m.handle) async for m in worker.mailbox.messages()] == [("x", None)] * 5
    for _, right in pairs:
        right.close()


async def test_an_owner_that_leaves_drops_its_handle_when_others_have_the_message():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        first, second = worker.mailbox.messages(), worker.mailbox.messages()
        await primary.mailbox.send("x", left)
        [message] = await take(second, 1)
        assert message.handle is None
        await first.aclose()
        assert right.recv(1) == b""
        assert worker.mailbox.dropped_handles == 1
    right.close()


async def test_a_stream_keeps_what_it_holds_when_the_channel_is_lost():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        stream = worker.mailbox.messages()
        await primary.mailbox.send("last words", left)
        await primary.mailbox.flush()
        primary.close()
        await until(lambda: worker.losses)
        messages = [message async for message in stream]
        assert values(messages) == ["last words"]
        messages[0].handle.close()
    right.close()


async def test_queued_handles_are_closed_when_the_channel_is():
    before = open_fds()
    async with Boxes() as (primary, worker):
        for _ in range(WINDOW):
            primary.mailbox.send_nowait("x")
        for _ in range(20):
            primary.mailbox.send_nowait("y", Descriptor(os.dup(2)))
        primary.mailbox.close()
        stream = worker.mailbox.messages()
        await turn(10)
        del stream
    assert open_fds() == before
