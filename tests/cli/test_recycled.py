"""Workers that reach a limit while requests flow, and slots that fail, with real processes."""

import http.client
import threading

import pytest

from tests.kit import scaled
from tests.kit.serving import Served

#: Requests per second, and the clients that send them.
RATE, CLIENTS = 200, 4


class Client(threading.Thread):
    """Asks at its rate until it is told to stop, every other time on a kept connection."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served
        self._kept = served.connect()
        self._is_over = threading.Event()
        self.answers: list[str] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        while not self._is_over.wait(CLIENTS / RATE):
            try:
                self.answers += [self._served.get(), self._ask_again()]
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
        self._kept.close()

    def _ask_again(self) -> str:
        self._kept.request("GET", "/")  # it reconnects if the last answer said that it closes
        return self._kept.getresponse().read().decode()

    def stop(self) -> None:
        self._is_over.set()
        self.join(scaled(30))


@pytest.mark.slow
def test_requests_flow_on_while_one_worker_after_the_other_is_replaced(serve):
    """With even distribution all workers reach the limit at the same moment."""
    served = serve("--max-requests", "20", "--grace", "10", workers=4)
    clients = [Client(served) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        replaced = [
            served.program.expect(r"worker (\d+) \(slot \d+\) is replaced: \d+ requests", stream="stderr")[1]
            for _ in range(3)
        ]
    finally:
        for client in clients:
            client.stop()
    assert [failure for client in clients for failure in client.failures] == []
    assert len(set(replaced)) == 3
    assert all(client.answers for client in clients)
    assert served.program.finish() == 0
    assert "Traceback" not in served.program.stderr


@pytest.mark.ci_only
@pytest.mark.slow
def test_all_slots_have_failed(serve, tmp_path):
    source = """
        import os, pathlib

        async def app(scope, receive, send):
            if scope["type"] == "http":
                pathlib.Path("broken").touch()
                os._exit(7)
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

        if pathlib.Path("broken").exists():
            raise RuntimeError("the table is gone")
    """
    served = serve("--chdir", str(tmp_path), source=source, workers=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        served.get()
    assert served.program.wait() == 3
    log = served.program.stderr
    assert (
        "all slots have failed: in each of them 5 workers ended within 60 s or before they were ready"
        in log.splitlines()[-1]
    )
    assert log.count("RuntimeError: the table is gone") == 1
    assert log.count("its slot is filled again") == 4
