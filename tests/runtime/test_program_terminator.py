"""A program that is asked to leave by a signal while its loop is just taking a connection."""

#: The helper thread's first look finds nothing open; then a connection is, until it was looked at some times.
WORKER = """
import asyncio, os, signal
from types import SimpleNamespace
from everycore.worker.ending import ProgramTerminator

class Connections:
    looks = 0
    is_served = False

    @property
    def open(self):
        self.looks += 1
        return 0 if self.looks == 1 or self.is_served else 1

connections = Connections()
post = SimpleNamespace(
    only_note=False,
    noted=[],
    ticket=SimpleNamespace(grace=30.0),
    connections=connections,
    link=SimpleNamespace(tell=lambda word: None),
)
signal.signal(signal.SIGTERM, ProgramTerminator(post))

async def main():
    os.kill(os.getpid(), signal.SIGTERM)
    while connections.looks < 5:
        await asyncio.sleep(0.01)
    print("served", flush=True)
    connections.is_served = True
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_it_serves_whom_it_has_taken_before_it_ends(start_program):
    running = start_program(WORKER)
    running.expect("^served$")
    assert running.wait() == 0
