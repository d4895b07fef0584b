"""The load: on loopback, from one process and thread with raw epoll; limited in number and in time.

Open loop: every request has an intended time, which no answer can delay, and its latency counts from there (a
closed loop sends a slow server fewer requests, and so hides its slowness: "coordinated omission").
"""

import errno
import random
import re
import resource
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_IN_PROGRESS = (0, errno.EINPROGRESS)


def raise_descriptor_limit() -> None:
    """Allow thousands of connections at once, here and in processes started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass(frozen=True)
class Request:
    """At `at` seconds after the start, ask a worker to block for `milliseconds`."""

    at: float
    milliseconds: int


def poisson(count: int, rate: float, *, slow_share: float, fast: int, slow: int, seed: int) -> list[Request]:
    dice = random.Random(seed)
    at, plan = 0.0, []
    for _ in range(count):
        at += dice.expovariate(rate)
        plan.append(Request(at, slow if dice.random() < slow_share else fast))
    return plan


@dataclass(slots=True)
class _Call:
    sock: socket.socket
    number: int
    sent: bool = False


@dataclass(frozen=True)
class Outcome:
    """Latencies in seconds from the intended time, in the order of the plan; None: no answer."""

    latencies: list[float | None]
    behind: float  # the longest delay of this client behind its plan: a bound of its own error

    @property
    def lost(self) -> int:
        return sum(latency is None for latency in self.latencies)


def _line(request: Request) -> bytes:
    return b"%d\n" % request.milliseconds


def open_loop(
    port: int,
    plan: Sequence[Request],
    *,
    patience: float,
    say: Callable[[Request], bytes] = _line,
    is_over: Callable[[], bool] = lambda: False,
) -> Outcome:
    """One connection for each request, at the intended times; waits up to `patience` seconds after the last.

    say: the bytes to send. Once `is_over`, the rest of the plan is left out.
    """
    latencies: list[float | None] = [None] * len(plan)
    calls: dict[int, _Call] = {}
    poller = select.epoll()
    start = time.perf_counter() + 0.05
    end = start + plan[-1].at + patience
    due, behind = 0, 0.0
    try:
        while due < len(plan) or calls:
            now = time.perf_counter()
            if now > end:
                break
            if due < len(plan) and is_over():
                plan, latencies, end = plan[:due], latencies[:due], now + patience
            while due < len(plan) and start + plan[due].at <= now:
                behind = max(behind, now - start - plan[due].at)
                call = _Call(_dial(port), due)
                calls[call.sock.fileno()] = call
                poller.register(call.sock, select.EPOLLIN | select.EPOLLOUT)
                due += 1
                now = time.perf_counter()
            wait = start + plan[due].at - now if due < len(plan) else end - now
            if due == len(plan) and not calls:
                break  # the plan was cut
            for fd, events in poller.poll(max(wait, 0.0)):
                call = calls[fd]
                if not call.sent and events & select.EPOLLOUT:
                    _send(call, say(plan[call.number]), poller)
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    if _answered(call.sock):
                        latencies[call.number] = time.perf_counter() - start - plan[call.number].at
                    poller.unregister(fd)
                    call.sock.close()
                    del calls[fd]
    finally:
        for call in calls.values():
            call.sock.close()
        poller.close()
    return Outcome(latencies, behind)


def _dial(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    status = sock.connect_ex(("127.0.0.1", port))
    if status not in _IN_PROGRESS:
        sock.close()
        raise OSError(status, "connect")
    return sock


def _send(call: _Call, data: bytes, poller: select.epoll) -> None:
    try:
        call.sock.send(data)
    except OSError:
        return  # refused or reset: EPOLLERR says so
    call.sent = True
    poller.modify(call.sock, select.EPOLLIN)


def _answered(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(64))
    except OSError:
        return False


def hold(port: int, count: int, burst: int, *, ask: bytes = b"", seconds: float = 30.0) -> Counter[int]:
    """Open `count` connections, `burst` at a time, and keep all. Returns how many each worker got, by its id.

    ask: a request that is answered with the id; without it the server sends the id unasked.
    """
    held: list[socket.socket] = []
    shares: Counter[int] = Counter()
    end = time.monotonic() + seconds
    try:
        while len(held) < count:
            fresh = [_dial(port) for _ in range(min(burst, count - len(held)))]
            held += fresh
            shares.update(_ids(fresh, end, ask))
        return shares
    finally:
        for sock in held:
            sock.close()


def _ids(socks: Sequence[socket.socket], end: float, ask: bytes) -> list[int]:
    waiting = {sock.fileno(): sock for sock in socks}
    answers = dict.fromkeys(waiting, b"")
    ids: list[int] = []
    with select.epoll() as poller:
        for fd in waiting:
            poller.register(fd, select.EPOLLOUT if ask else select.EPOLLIN)
        while waiting:
            ready = poller.poll(max(end - time.monotonic(), 0.0))
            if not ready:
                raise TimeoutError(f"{len(waiting)} connections got no answer")
            for fd, events in ready:
                if events == select.EPOLLOUT:
                    waiting[fd].sendall(ask)
                    poller.modify(fd, select.EPOLLIN)
                    continue
                answers[fd] += (part := waiting[fd].recv(4096))
                if not part:
                    raise ConnectionError("a connection was closed without an answer")
                found = _ID.search(answers[fd]) if ask else _LINE.search(answers[fd])
                if found:
                    poller.unregister(fd)
                    del waiting[fd]
                    ids.append(int(found[1]))
    return ids


#: An answer that is only an id: the body of an HTTP response, which may come in two pieces, or a line.
_ID = re.compile(rb"\r\n\r\n(\d+)$")
_LINE = re.compile(rb"^(\d+)\n")
_RATE = re.compile(r"Requests per second:\s+([\d.]+)")
_DONE = re.compile(r"Complete requests:\s+(\d+)")
_FAILED = re.compile(r"Failed requests:\s+(\d+)")


def apache_bench(port: int, count: int, concurrency: int) -> tuple[float, int]:
    """Run `ab`, one connection for each request. Returns how many a second, and how many failed."""
    argv = [
        "ab",
        "-q",
        "-r",
        "-s",
        "20",
        "-c",
        str(concurrency),
        "-n",
        str(count),
        f"http://127.0.0.1:{port}/",
    ]
    output = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    rate, done, failed = (_find(pattern, output) for pattern in (_RATE, _DONE, _FAILED))
    return rate, int(count - done + failed)


def _find(pattern: re.Pattern[str], text: str) -> float:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"ab said nothing of {pattern.pattern!r}:\n{text}")
    return float(match[1])
