"""Free ports, and the first port that an ordinary user may have."""

import itertools
import os
import socket

_calls = itertools.count()


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, outside the range from which the kernel chooses.

    A debugger of each worker takes `base + worker.id`.
    """
    for base in range(12_000 + os.getpid() % 1000 * 16, 32_000, 16):
        try:
            for port in range(base, base + count):
                with socket.create_server(("", port)):
                    pass
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


def port_of_nobody() -> int:
    """A free port that the kernel gives to no connection meanwhile; another one at each call."""
    first, last = 12_000, 32_000
    for _ in range(last - first):
        port = first + (os.getpid() * 97 + next(_calls)) % (last - first)
        try:
            with socket.create_server(("", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0)) as sock:
        return sock.getsockname()[1]


def first_ordinary_port() -> int:
    """The first port that needs no privilege."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        return int(file.read())
