"""Sockets and files that go with messages, without a process: which taker gets one, and what is refused.

With processes: `tests/integration/test_handles.py`.
"""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest

from everycore import ChannelClosed, Cluster, Message
from everycore.testing import settle
from tests.kit import open_fds, usable


class TestTakers:
    async def test_it_goes_to_the_first_open_stream_alone(self, polite):
        seen = []
        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.on(Message, lambda message: seen.append(message.handle))
            first, second = worker.messages(), worker.messages()
            ours, theirs = socket.socketpair()
            with ours:
                await polite[worker].send("take this", theirs)
                assert not usable(theirs)
                got = await anext(first)
                assert (await anext(second)).handle is None
                assert seen == [None]
                assert isinstance(got.handle, socket.socket)
                with got.handle:
                    got.handle.sendall(b"x")
                    assert ours.recv(1) == b"x"

    async def test_without_a_stream_it_goes_to_the_first_callback(self, polite):
        seen: list[object] = []

        def first(message: Message) -> None:
            if message.handle is not None:
                seen.append("first")
                message.handle.close()

        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.on(Message, first)
            worker.on(Message, lambda message: seen.append(message.handle))
            ours, theirs = socket.socketpair()
            with ours:
                await polite[worker].send("take this", theirs)
                await settle()
        assert seen == ["first", None]

    async def test_handles_never_taken_are_closed_with_the_worker_and_warned_about_once(self, polite, caplog):
        async with Cluster() as cluster:
            worker = cluster.fork()
            await settle()
            before = open_fds()
            pairs = [socket.socketpair() for _ in range(3)]
            for _, theirs in pairs:
                await polite[worker].send("take this", theirs)
            await settle()
            polite[worker].exit()
            await worker.wait()
            for ours, _ in pairs:
                ours.setblocking(False)  # it is closed by now
                assert ours.recv(1) == b""
                ours.close()
            assert set(open_fds()) < set(before)
        assert caplog.text.count("taken by nobody") == 1


class TestRefused:
    async def test_a_closed_one(self, polite):
        async with Cluster() as cluster:
            worker = cluster.fork()
            sock = socket.socket()
            sock.close()
            for call in (worker.send, worker.send_nowait):
                with pytest.raises(OSError, match="Bad file descriptor"):
                    call("x", sock)
            stale = socket.socket()
            os.close(stale.fileno())
            with pytest.raises(OSError, match="Bad file descriptor"):
                worker.send_nowait("x", stale)
            stale.detach()
            await worker.send("after")
            message = await anext(polite[worker].messages())
            assert (message.message, message.handle) == ("after", None)

    async def test_a_transport_and_what_belongs_to_one(self, polite):
        async with Cluster() as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            _, writer = await asyncio.open_connection(sock=theirs)
            with ours:
                for handle in (writer, writer.transport, writer.get_extra_info("socket")):
                    with pytest.raises(TypeError):
                        worker.send_nowait("x", handle)
                writer.write(b"still mine")
                assert ours.recv(100) == b"still mine"
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    @pytest.mark.parametrize("handle", [1, True, "x", b"", [], object], ids=repr)
    async def test_objects_that_are_not_handles(self, polite, handle):
        async with Cluster() as cluster:
            with pytest.raises(TypeError):
                cluster.fork().send_nowait("x", handle)

    async def test_a_tls_socket(self, polite):
        async with Cluster() as cluster:
            worker = cluster.fork()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with context.wrap_socket(socket.socket(), server_hostname="x") as wrapped:
                with pytest.raises(TypeError, match="SSLSocket"):
                    worker.send_nowait("x", wrapped)
                assert usable(wrapped)

    async def test_a_refused_value_leaves_the_handle_alone(self, polite):
        async with Cluster() as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                with pytest.raises(TypeError, match="set"):
                    worker.send_nowait({1}, theirs)
                assert usable(theirs)

    async def test_to_a_dead_worker_the_handle_stays_the_senders(self, polite):
        async with Cluster() as cluster:
            worker = cluster.fork()
            polite[worker].die()
            await worker.wait()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                with pytest.raises(ChannelClosed):
                    worker.send_nowait("x", theirs)
                assert usable(theirs)
