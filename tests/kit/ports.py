"""Ports in a row: what a debugger of each worker takes, at `base + worker.id`."""

import os
import socket


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free, where the kernel gives none away by itself."""
    for base in range(12_000 + os.getpid() % 1000 * 16, 32_000, 16):
        try:
            for port in range(base, base + count):
                with socket.create_server(("", port)):
                    pass
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")
