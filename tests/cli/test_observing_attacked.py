"""Strangers send anything to the control socket and the observer's port; all other clients are served.

The soak test sends a million inputs to each. An input is what one connection sends: some connections then
close their side and read the answer, some read nothing, and some stay and send nothing more.
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections import deque

import pytest

import everycore.control
from everycore.core import control
from everycore.errors import ControlError
from tests.kit import open_fds, scaled
from tests.kit.log_lines import wait_until
from tests.kit.mutations import control_request, http_request
from tests.kit.processes import resident
from tests.kit.serving import metrics_port, observer_pid

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

#: Closed by a reset, so that the port does not stay in use.
RESET = struct.pack("ii", 1, 0)
MOST_SILENT = 300


class Stranger(threading.Thread):
    """Sends `count` inputs, one on each connection. Now and then it checks whether others are served."""

    def __init__(self, connect, make, count, look):
        super().__init__(daemon=True)
        self.connect = connect
        self.make = make
        self.count = count
        self.look = look
        self.problem = None
        self.done = 0

    def run(self):
        chance = random.Random(self.count)
        silent: deque[socket.socket] = deque()
        try:
            while self.done < self.count:
                sock = self.connect()
                if self.done % 50 == 0:
                    silent.append(sock)
                self.send(sock, self.make(chance), how=self.done % 3)
                if len(silent) > MOST_SILENT:
                    silent.popleft().close()
                if self.done % 100 == 0:
                    self.look()
                self.done += 1
        except Exception as error:
            self.problem = error
        finally:
            for sock in silent:
                sock.close()

    def send(self, sock, data, how):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            if how:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    continue
        if self.done % 50:
            sock.close()


def connected(family, address):
    sock = socket.socket(family)
    sock.settimeout(scaled(20))
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.connect(address)
    return sock


def no_order(chance):
    """Returns neither an order to end nor a subscription to events, which never ends."""
    while True:
        data = control_request(chance) + b"\n"
        try:
            request = control.read_request(data.partition(b"\n")[0])
        except ControlError:
            return data
        if (
            isinstance(request, control.AskStatus | control.AskHello | control.AskEvents)
            and not request.follow
        ):
            return data


@pytest.mark.parametrize(
    "count", [200, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.limit(7200)])]
)
def test_whatever_strangers_send_all_others_are_served(serve, tmp_path, count):
    path = str(tmp_path / "control.sock")
    served = serve("--metrics", "127.0.0.1:0", "--control", path)
    primary = served.program.pid
    watching = observer_pid(primary)
    port = metrics_port(served.program)

    def look():
        assert served.get() in ("1", "2")
        assert served.get(port=port, path="/ready") == "ready: 2 of 2 workers are ready\n"
        with everycore.control.connect(path=path) as service:
            assert service.status().size == 2

    look()
    descriptors, memory = open_fds(primary), resident(primary)
    begun = time.monotonic()
    strangers = [
        Stranger(lambda: connected(socket.AF_UNIX, path), no_order, count, look),
        Stranger(lambda: connected(socket.AF_INET, ("127.0.0.1", port)), http_request, count, look),
    ]
    for stranger in strangers:
        stranger.start()
    for stranger in strangers:
        stranger.join()
    assert [(stranger.problem, stranger.done) for stranger in strangers] == [(None, count)] * 2
    look()
    wait_until(
        lambda: open_fds(primary).items() <= descriptors.items(), "the primary has no more descriptors"
    )
    assert resident(primary) - memory < 16 << 20
    assert observer_pid(primary) == watching
    assert "[observer]" not in served.program.stderr  # strangers cause no lines in the log
    assert served.program.finish() == 0
    print(f"{count} inputs each in {time.monotonic() - begun:.0f} s")
