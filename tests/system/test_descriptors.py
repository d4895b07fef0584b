"""Descriptors that came from somebody else."""

import os
import socket
import struct

import pytest

from everycore.system.descriptors import close_strange


@pytest.mark.limit(10)
def test_closing_what_somebody_else_has_made_does_not_wait():
    """SO_LINGER with what nobody reads: close(2) would wait for ten minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            ours.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    ours.send(bytes(1 << 16))
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
            close_strange((ours.detach(),))


def test_whatever_it_is_it_is_closed():
    reading, writing = os.pipe()
    close_strange((writing, -1))
    assert os.read(reading, 1) == b""
    os.close(reading)
