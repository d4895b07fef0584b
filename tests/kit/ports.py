"""Ports that are free, and where those begin that everybody may have."""

import os
import socket


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free, where the kernel gives none away by itself.

    What a debugger of each worker takes is `base + worker.id`.
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


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0)) as sock:
        return sock.getsockname()[1]


def first_ordinary_port() -> int:
    """Below it a port is privileged."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        return int(file.read())
