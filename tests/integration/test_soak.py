"""A primary that has run for long has the memory and the descriptors that it had at first.

Minutes: `make test ARGS='-m soak'`. EVERYCORE_TEST_SOAK=0.1 is a tenth of it.
"""

import os
import re
import socket
import threading

import pytest

from tests.kit import scaled

SHARE = float(os.environ.get("EVERYCORE_TEST_SOAK", "1"))
FORKS, CONNECTIONS, CLIENTS = int(10_000 * SHARE), int(1_000_000 * SHARE), 4
#: The numbers of forks and connections before the comparison: by then caches are full, and heaps in shape.
WARM = 20
#: The allowed difference of a heap, in bytes and in objects.
MOST_BYTES, MOST_OBJECTS = 3 * 2**20, 2_000

#: Forks workers that join and end, some at once, as fast as it can, beside two that serve.
PRIMARY = """
import asyncio, gc, os, sys
import everycore

AT_ONCE = 10

async def echo(reader, writer):
    writer.write(await reader.read(100))
    writer.close()

async def serve():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()

async def come_and_go():
    everycore.current_worker().disconnect()

def note(what):
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    print(what, resident, len(os.listdir("/proc/self/fd")), len(gc.get_objects()), flush=True)

async def main(forks, warm, preload):
    async with everycore.Cluster(everycore.Settings(preload=preload or None)) as cluster:
        for _ in range(2):
            cluster.fork()
        async for event in cluster.events(everycore.Listening):
            print("port", event.address[1], flush=True)
            break
        loop = asyncio.get_running_loop()
        for part in ("warm", "forked"):
            for _ in range((forks if part == "forked" else forks // warm) // AT_ONCE):
                workers = [cluster.fork(env={"COME_AND_GO": "1"}) for _ in range(AT_ONCE)]
                for worker in workers:
                    await worker.wait()
            note(part)
        # Clients come now, in the test: a line of it says how far they are.
        for _ in range(2):
            what = await loop.run_in_executor(None, sys.stdin.readline)
            note(what.strip())

if __name__ == "__main__":
    if everycore.is_primary:
        everycore.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
    else:
        everycore.run(come_and_go() if "COME_AND_GO" in os.environ else serve())
"""


def connect(port: int, count: int) -> None:
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), scaled(30)) as sock:
            sock.sendall(b"x")
            assert sock.recv(10) == b"x"


def connect_all(port: int, count: int) -> None:
    threads = [threading.Thread(target=connect, args=(port, count // CLIENTS)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.soak
@pytest.mark.limit(7200)
@pytest.mark.parametrize("preload", ["", "asyncio"], ids=["fresh", "mold"])
def test_a_primary_does_not_grow(start_program, preload):
    program = start_program(PRIMARY, str(FORKS), str(WARM), preload)

    def noted(what: str) -> tuple[int, int, int]:
        found = program.expect(rf"^{re.escape(what)} (\d+) (\d+) (\d+)", timeout=3600)
        return int(found[1]), int(found[2]), int(found[3])

    port = int(program.expect(r"^port (\d+)")[1])
    warm, forked = noted("warm"), noted("forked")
    connect_all(port, CONNECTIONS // WARM)
    program.write("some connections\n")
    some = noted("some connections")
    connect_all(port, CONNECTIONS)
    program.write("all connections\n")
    everything = noted("all connections")
    print(f"\n(bytes, descriptors, objects): {warm=} {forked=} {some=} {everything=}")
    program.signal()
    assert program.wait() == 0
    for before, after in ((warm, forked), (some, everything)):
        assert after[0] - before[0] < MOST_BYTES
        assert after[1] == before[1]
        assert abs(after[2] - before[2]) < MOST_OBJECTS
