"""spread.py WORKERS ARGV...: a command that serves `bench.programs.who`; reports when all have started.

{port} in ARGV is a free port. Each worker connects to BENCH_STARTED, a port, once its application has
started.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time

SECONDS = 150.0


def main() -> None:
    workers, command = int(sys.argv[1]), sys.argv[2:]
    with socket.create_server(("127.0.0.1", 0)) as told, socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
        chosen.close()
        env = os.environ | {"BENCH_STARTED": str(told.getsockname()[1])}
        argv = [word.replace("{port}", str(port)) for word in command]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
        try:
            pids = started(process, told, workers)
            listening(process, port)
            print(json.dumps({"port": port, "primary": process.pid, "workers": pids}), flush=True)
            sys.stdin.read()
        finally:
            process.kill()
            process.wait()


def started(process: "subprocess.Popen[bytes]", told: socket.socket, workers: int) -> list[int]:
    pids: set[int] = set()
    end = time.monotonic() + SECONDS
    while len(pids) < workers:
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"{len(pids)} of {workers} workers have started")
        if select.select([told], [], [], 0.1)[0]:
            with told.accept()[0] as sock, sock.makefile("rb") as file:
                pids.add(int(file.read()))
    return sorted(pids)


def listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until the port answers. Granian's workers have their own listeners, opened at different times."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(1.0)
            return
    raise SystemExit("the command did not serve")


main()
