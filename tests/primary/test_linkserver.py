"""A worker's requests on its link that wait for another worker."""

import socket

from everycore import Cluster, Disconnected, Event, ExitStatus, Settings
from everycore.core import wire
from everycore.primary.linkserver import MOST_POSTPONED
from everycore.system import packets
from everycore.system.descriptors import close_all
from everycore.testing import settle
from tests.kit.fake_processes import FakeProcesses


def ask_for_any_port(worker):
    fd = socket.socket().detach()
    packets.send(
        worker.process.link, wire.LINK_NUMBER.pack(1) + wire.encode(wire.Bind(["127.0.0.1", 0])), [fd]
    )
    close_all([fd])


async def test_so_many_wait_for_what_another_does_and_no_more():
    """Another worker has bound port 0, and does not listen on it yet."""
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py"), grace=1.0) as cluster:
            cluster.fork()
            second = cluster.fork()
            told = []
            second.on(Event, lambda event: told.append(type(event)))
            first, asking = processes.all
            first.join()
            asking.join()
            await settle()
            ask_for_any_port(first)
            await settle()
            for _ in range(MOST_POSTPONED):
                ask_for_any_port(asking)
                await settle()
            assert Disconnected not in told
            ask_for_any_port(asking)
            await settle()
            assert told[-1] is Disconnected
            for worker in (first, asking):
                worker.end(ExitStatus(code=0))
