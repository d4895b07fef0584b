"""command.py ARGV...: a command that serves `bench.programs.application`, and the database for it.

{port} in ARGV is a free port. Prints the serving processes after an answer, and kills the command at the end.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time

SECONDS = 60.0


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as database, socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
        chosen.close()
        env = os.environ | {"BENCH_DATABASE": str(database.getsockname()[1]), "BENCH_PORT": str(port)}
        argv = [word.replace("{port}", str(port)) for word in sys.argv[1:]]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=env)
        try:
            worker = first_answer(process, port)
            print(json.dumps({"port": port, "primary": process.pid, "workers": [worker]}), flush=True)
            sys.stdin.read()
        finally:
            process.kill()
            process.wait()


def first_answer(process: "subprocess.Popen[bytes]", port: int) -> int:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise SystemExit("the command did not serve")


main()
