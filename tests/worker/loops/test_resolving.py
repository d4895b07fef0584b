"""The addresses of one server: all that this machine has, or none."""

import errno
import socket

import pytest

from everycore.worker.loops.resolving import bind_error, open_all

HERE, MISSING, UNKNOWN, TAKEN = "here", errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EADDRINUSE


class Machine:
    """Makes a socket for the address HERE, and raises for every number."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    async def open_one(self, family, kind, address):
        if address != HERE:
            raise OSError(address, "no")
        sock = socket.socket(family, kind)
        self.made.append(sock)
        return sock

    async def open_all(self, *addresses):
        return await open_all(
            [(socket.AF_INET, socket.SOCK_STREAM, address) for address in addresses], self.open_one
        )


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    for sock in machine.made:
        sock.close()


@pytest.mark.parametrize("addresses", [(MISSING, HERE), (HERE, UNKNOWN), (UNKNOWN, MISSING, HERE, MISSING)])
async def test_those_that_are_not_here_are_left_out(machine, addresses):
    opened = await machine.open_all(*addresses)
    assert opened == machine.made
    assert [sock.fileno() >= 0 for sock in opened] == [True]


async def test_none_that_is_here_is_the_error_of_the_last(machine):
    with pytest.raises(OSError, match="no") as caught:
        await machine.open_all(MISSING, UNKNOWN)
    assert caught.value.errno == UNKNOWN


async def test_an_error_of_one_closes_the_others(machine):
    with pytest.raises(OSError, match="no") as caught:
        await machine.open_all(HERE, HERE, TAKEN)
    assert caught.value.errno == TAKEN
    assert [sock.fileno() for sock in machine.made] == [-1, -1]


def test_an_error_names_the_address_as_asyncio_does():
    error = bind_error(OSError(errno.EADDRINUSE, "whatever the primary says"), ("::1", 80, 0, 0))
    assert (error.errno, str(error.strerror)) == (
        errno.EADDRINUSE,
        "error while attempting to bind on address ('::1', 80, 0, 0): address already in use",
    )
