"""One run of a program of the matrix, and all of its properties, each as soon as it can be observed.

life = Life(program, place, "http", workers=3, control=path)
life.ready()
assert is_even(life.shares())
"""

import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import everycore.control
from tests.kit import Program, scaled
from tests.kit.matrix_probes import PROBES, Answer, Place
from tests.kit.processes import children, look, wait_gone

#: The number of connections for each worker, and how far the largest share may exceed the mean.
EACH = 20
MOST = 1.1

_numbers = itertools.count()


def next_client() -> str:
    """A new client address for each connection, in 127.0.0.0/8."""
    return f"127.0.{1 + next(_numbers) // 250 % 250}.{1 + next(_numbers) % 250}"


def is_even(shares: list[int]) -> bool:
    """Whether the largest share is at most a tenth above the mean, or somewhat more on a busy machine.

    There a worker may lack a processor when its turn comes, and another worker gets the connection.
    """
    most = 1 + (MOST - 1) * (1 + scaled(1)) / 2
    return max(shares) <= most * sum(shares) / len(shares)


class Life:
    """A program under `everycore run`."""

    def __init__(self, program: Program, place: Place, probe: str, workers: int, control: str) -> None:
        """`control`: the path of its control socket."""
        self.program, self.place, self.workers, self.control = program, place, workers, control
        self._probe = PROBES[probe]
        self._owners: dict[int, int] = {}

    def ready(self) -> None:
        self.program.expect(f"ready: all {self.workers} workers", 60, stream="stderr")

    # Asking

    def ask(self, *, slow: bool = False) -> tuple[Answer, str]:
        """The answer over a new connection, and the client address of that connection."""
        client = next_client()
        return self._probe(self.place, client, slow), client

    def ask_many(self, count: int) -> list[Answer]:
        """The answers over `count` connections at once."""
        with ThreadPoolExecutor(count) as threads:
            return [answer for answer, _ in threads.map(lambda _: self.ask(), range(count))]

    def worker_of(self, pid: int) -> int:
        """The worker that a process belongs to: a program may answer from child processes."""
        if pid not in self._owners:
            ours, process = set(children(self.program.pid)), look(pid)
            while process is not None and process.pid not in ours:
                process = look(process.parent)
            self._owners[pid] = process.pid if process is not None else 0
        return self._owners[pid]

    def all_answer(self) -> set[int]:
        """Ask until each worker has answered. This does not return for a program that omits one."""
        alive = set(children(self.program.pid))
        seen: set[int] = set()
        while len(seen) < self.workers:
            seen.add(self.worker_of(self.ask()[0].pid))
            seen &= alive
        return seen

    # What is promised

    def shares(self) -> list[int]:
        """How many connections each worker gets, when they come one after the other.

        Among connections that come at once, a worker that lacks a processor gets fewer, as it should.
        """
        answers = [self.ask()[0] for _ in range(EACH * self.workers)]
        counts = Counter(self.worker_of(answer.pid) for answer in answers)
        return [counts[worker] for worker in children(self.program.pid)]

    def knows_its_client(self) -> bool:
        """Whether the program is told its client's address."""
        return all(
            answer.client in {client, f"::ffff:{client}"} for answer, client in (self.ask() for _ in range(3))
        )

    def kill_one(self, *, lossless: bool) -> None:
        """Kill a worker by SIGKILL. The others answer meanwhile (`lossless`), and so does its replacement."""
        victim = self.worker_of(self.ask()[0].pid)
        os.kill(victim, signal.SIGKILL)
        self.program.expect(r"its slot is filled again", 60, stream="stderr")
        if lossless:
            self.ask_many(self.workers)
        self._wait_ready(self.workers + 1)
        assert victim not in self.all_answer()

    def _wait_ready(self, count: int) -> None:
        """Wait until `count` workers have become ready since the beginning."""
        with everycore.control.connect(path=self.control) as service:
            for event in service.follow():
                count -= event.event == "ready"
                if count == 0:
                    return
        raise AssertionError("the service has ended")

    def reload(self, *, lossless: bool) -> None:
        """Replace all workers. Requests are answered meanwhile (`lossless`)."""
        old = set(children(self.program.pid))
        with everycore.control.connect(path=self.control) as service:
            service.reload(timeout=scaled(60), on_event=lambda _: lossless and self.ask_many(self.workers))
        # Old workers are no longer asked; a listener opened in C still is, until it is gone.
        assert wait_gone(old, 60) == []
        assert not old & self.all_answer()

    def stop_while_slow(self) -> None:
        """Send TERM while each worker has a request that takes a second. All of them are answered."""
        with self._slow_requests() as answers:
            self.program.signal(signal.SIGTERM)
            for answer in answers:
                answer.result(scaled(30))

    @contextmanager
    def _slow_requests(self) -> Iterator[list[Future[tuple[Answer, str]]]]:
        with ThreadPoolExecutor(self.workers) as threads:
            answers = []
            for _ in range(self.workers):
                answers.append(threads.submit(self.ask, slow=True))
                self.program.expect("^slow$")
            yield answers


def files_in(folder: Path) -> set[str]:
    """Every file below `folder`, except compiled Python files."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name for name in found if "__pycache__" not in name}


def is_listening(port: int) -> bool:
    """Whether a process listens on that port of 127.0.0.1, or of all addresses."""
    wanted = re.compile(rf"^ *\d+: \w+:{port:04X} \w+:0000 0A ", re.MULTILINE)
    return any(wanted.search(Path(f"/proc/net/{table}").read_text()) for table in ("tcp", "tcp6"))
