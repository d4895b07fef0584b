"""What a worker gets of a listener under each policy."""

import asyncio
import os
import socket

import pytest

from everycore.core.dispatch import Dispatcher
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.shared import SharedDistribution
from everycore.system.descriptors import close_all
from everycore.system.listeners import StreamListener


@pytest.fixture
def bound():
    listener = StreamListener.bound(("127.0.0.1", 0), family=socket.AF_INET, v6only=True, backlog=5)
    listener.listen()
    yield listener
    listener.close()


async def test_with_shared_each_has_the_listener_itself_and_can_stop_it_for_all(bound):
    distribution = SharedDistribution(asyncio.get_running_loop(), bound)
    fds = distribution.shared()
    with socket.socket(fileno=os.dup(fds[0])) as its:
        its.shutdown(socket.SHUT_RDWR)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(bound.real)
    assert bound.was_shut_down()
    bound.listen()  # as a worker comes or goes
    with socket.create_connection(bound.real):
        assert not bound.was_shut_down()
    close_all(fds)
    distribution.close()


async def test_with_round_robin_no_worker_has_it(bound):
    distribution = Distributor(asyncio.get_running_loop(), bound, Dispatcher())
    assert distribution.shared() == ()
    distribution.close()
