"""Other descriptors of a file, and its epoll registrations."""

import os
import select
import socket

import pytest

from everycore.system import aliases
from everycore.system.aliases import Registration


def test_all_numbers_of_a_socket_are_found():
    with socket.socket() as sock, socket.socket() as other:
        copy = os.dup(sock.fileno())
        assert aliases.numbers_of(sock.fileno()) == {sock.fileno(), copy}
        assert aliases.numbers_of(other.fileno()) == {other.fileno()}
        os.close(copy)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_an_epoll_that_watches_a_number_goes_on_with_the_file_that_is_put_there(is_foreign):
    near, far = socket.socketpair()
    with near, far, socket.socket() as sock, select.epoll() as epoll:
        number = sock.fileno()
        epoll.register(number, select.EPOLLIN)
        [found] = aliases.registrations_of({number})
        assert (found.epoll, found.fd, found.events & select.EPOLLIN) == (epoll.fileno(), number, 1)
        if is_foreign:  # a C library marks the upper half, which comes back
            found = Registration(found.epoll, found.fd, found.events, (7 << 32) | number)
        aliases.unregister(found)
        os.dup2(near.fileno(), number)
        aliases.register_again(found)
        far.send(b"x")
        assert epoll.poll(10) == [(number, select.EPOLLIN)]
        [again] = aliases.registrations_of({number})
        assert again.data == found.data


def test_nothing_is_found_without_a_watcher():
    with socket.socket() as sock, select.epoll():
        assert aliases.registrations_of({sock.fileno()}) == []
