"""wsgi: bridges from WSGI to ASGI, and engines that speak WSGI themselves, on one listener of everycore.

First what each keeps of PEP 3333 and of what Django and Flask rely on, then its speed. The client has one
thread for each connection, which is kept alive, and sends each request after the answer to the last one. A
dash means that it failed.
"""

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Sequence

from bench.contestants import Options, started
from bench.figures import Column, interleave, merge, table
from bench.processes import Server, python

OURS = "everycore"
#: The package that each contestant needs.
CONTESTANTS = {
    OURS: "a2wsgi",
    "a2wsgi": "a2wsgi",
    "asgiref": "asgiref",
    "waitress": "waitress",
    "cheroot": "cheroot",
}
MEGABYTE = 2**20
#: The requests: the path, the body, and how many in a round.
LOADS = {
    "small": ("/small", 0, 800),
    "1 MB down": ("/down", 0, 48),
    "1 MB up": ("/up", MEGABYTE, 48),
}
SPEED = (Column("rate", "requests/s", ratio=True), Column("cpu", "worker us/request", ratio=True))


def run(options: Options) -> str:
    names = [name for name, module in CONTESTANTS.items() if importlib.util.find_spec(module) is not None]
    programs = {name: python("wsgi", name) for name in names}
    with started(options, programs) as servers:
        kept = {
            name: {what: float(check(server)) for what, check in CHECKS.items()}
            for name, server in servers.items()
        }
        columns = [Column(what, what) for what in CHECKS]
        print(table("wsgi: what is kept (1: yes)", merge(kept), columns), flush=True)
    with started(options, programs) as servers:  # new processes: one that failed a check may be damaged
        for load, (path, size, usual) in LOADS.items():
            for concurrency in (1, 16):
                count = usual * (5 if options.full else 1) // (4 if concurrency == 1 else 1)
                print(_speed(options, servers, load, path, size, count, concurrency), flush=True)
    missing = sorted(set(CONTESTANTS) - set(names))
    return f"\nnot installed: {', '.join(missing)}" if missing else ""


def _speed(
    options: Options,
    servers: dict[str, Server],
    load: str,
    path: str,
    size: int,
    count: int,
    concurrency: int,
) -> str:
    failed: set[str] = set()

    def measure(name: str) -> dict[str, float]:
        server = servers[name]
        if name in failed:
            return {}
        _, before = server.cpu()
        try:
            seconds = ask_often(server.port, request(path, size), count, concurrency)
        except (OSError, EOFError, ValueError):
            failed.add(name)
            return {}
        _, after = server.cpu()
        return {"rate": count / seconds, "cpu": (after - before) * 1e6 / count}

    rounds = options.times(5)
    samples = interleave(list(servers), rounds, measure, label=f"{load}, {concurrency} at once")
    title = f"wsgi: {load}, {concurrency} at once, {count} requests, {rounds} rounds"
    return table(title, samples, SPEED, baseline=OURS)


def request(path: str, size: int = 0) -> bytes:
    method = b"POST" if size else b"GET"
    head = b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method, path.encode(), size)
    return head + b"x" * size


def ask_often(port: int, sent: bytes, count: int, concurrency: int) -> float:
    """The time for this many requests, in seconds."""
    failures: list[BaseException] = []

    def client() -> None:
        left = count // concurrency
        try:
            while left:
                with connect(port) as sock:
                    head = b""
                    while left and b"connection: close" not in head:
                        sock.sendall(sent)
                        head, _ = read_answer(sock)
                        left -= 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - begin


def connect(port: int, seconds: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def read_answer(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an answer that has a Content-Length."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += received(sock)
    head = data[:end].lower()
    left = int(head.partition(b"content-length:")[2].split(b"\r\n")[0]) - (len(data) - end - 4)
    parts = [data[end + 4 :]]
    while left > 0:
        parts.append(received(sock))
        left -= len(parts[-1])
    return head, b"".join(parts)


def received(sock: socket.socket) -> bytes:
    data = sock.recv(2**18)
    if not data:
        raise EOFError
    return data


# --- what is kept -----------------------------------------------------------------------------------------


def ask(server: Server, path: str) -> tuple[bytes, bytes]:
    with connect(server.port, 10.0) as sock:
        sock.sendall(request(path))
        return read_answer(sock)


def is_valid(server: Server) -> bool:
    """wsgiref's validator has no complaint."""
    return ask(server, "/valid")[1] == b"hello" and ask(server, "/complaints")[1] == b"0"


def streams_up(server: Server) -> bool:
    """The application reads the first byte of a body before the client sends the last one."""
    whole = request("/first", MEGABYTE)
    with connect(server.port) as sock:
        sock.sendall(whole[: len(whole) // 2])
        return ask(server, "/begun")[1] == b"yes"


def streams_down(server: Server) -> bool:
    """The client has the first part of an answer before the application makes the next one."""
    with connect(server.port, 2.0) as sock:
        sock.sendall(request("/stream"))
        data = b""
        while not data.endswith(b"\r\n\r\na"):
            data += received(sock)
        ask(server, "/go")
        return received(sock) == b"b"


def closes(server: Server) -> bool:
    """The iterable is closed soon after its client has disconnected."""
    with connect(server.port) as sock:
        sock.sendall(request("/endless"))
        received(sock)
    return ask(server, "/closed")[1] == b"yes"


def has_threads(server: Server) -> bool:
    """Four requests run at once."""
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, "/together")[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers == [b"yes"] * 4


def changes_head(server: Server) -> bool:
    """`start_response` with `exc_info` replaces a head that has not been sent."""
    return ask(server, "/changed")[0].startswith(b"http/1.1 500")


def _attempt(check: Callable[[Server], bool]) -> Callable[[Server], bool]:
    def attempt(server: Server) -> bool:
        try:
            return check(server)
        except (OSError, EOFError, ValueError):  # no answer in time counts as an answer
            return False

    return attempt


_ALL: Sequence[tuple[str, Callable[[Server], bool]]] = (
    ("valid", is_valid),
    ("up", streams_up),
    ("down", streams_down),
    ("closed", closes),
    ("threads", has_threads),
    ("exc_info", changes_head),
)
CHECKS = {what: _attempt(check) for what, check in _ALL}
