"""A listener outlives its workers if connections are to wait for the next one."""

import socket
from typing import Any

import pytest

from everycore import Cluster, Pool
from everycore.testing import VirtualTimeLoop, settle
from tests.kit import pass_time

ANY_PORT = ("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


def addresses(cluster) -> list[Any]:
    return [listener.address for listener in cluster.snapshot().listeners]


async def test_one_that_closes_its_server_and_dies_leaves_the_port_to_its_replacement(workers):
    """A program that fails within `async with server` does this."""
    async with Pool(1) as pool:
        first = await workers.forked()
        served = await first.listen(ANY_PORT)
        await settle()
        (address,) = addresses(pool)
        served.close()
        await settle()
        assert addresses(pool) == [address]
        with socket.create_connection(address, timeout=10):
            first.exit(1)
            second = await workers.forked()
            again = await second.listen(ANY_PORT)
            assert again.getsockname() == address
            again.close()
        second.exit()


async def test_one_that_closes_its_server_and_lives_gives_the_port_up_in_the_end(workers):
    async with Pool(1, hold_timeout=5) as pool:
        only = await workers.forked()
        (await only.listen(ANY_PORT)).close()
        await settle()
        assert len(addresses(pool)) == 1
        await pass_time(6)
        assert addresses(pool) == []
        only.exit()


async def test_one_that_listens_again_meanwhile_keeps_it(workers):
    async with Pool(1, hold_timeout=5) as pool:
        only = await workers.forked()
        (await only.listen(ANY_PORT)).close()
        again = await only.listen(ANY_PORT)
        await pass_time(6)
        assert addresses(pool) == [again.getsockname()]
        again.close()
        only.exit()


async def test_where_newcomers_are_refused_it_goes_at_once(workers):
    async with Cluster() as cluster:
        cluster.fork()
        only = await workers.forked()
        (await only.listen(ANY_PORT)).close()
        await settle()
        assert addresses(cluster) == []
        only.exit()
