"""One life of a program of the matrix: all of its properties, each as soon as it can be seen.

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

#: So many connections for each worker, of which the largest share may be so much above the mean.
EACH = 20
MOST = 1.1

_numbers = itertools.count()


def next_client() -> str:
    """An address for a client: another one for each connection, in 127.0.0.0/8."""
    return f"127.0.{1 + next(_numbers) // 250 % 250}.{1 + next(_numbers) % 250}"


def is_even(shares: list[int]) -> bool:
    """Whether the largest share is at most a tenth above the mean: somewhat more on a busy machine.

    There a worker may want for a processor when it is its turn, and another one has the connection.
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
        """The answer over a connection of its own, and the address that was its client's."""
        client = next_client()
        return self._probe(self.place, client, slow), client

    def ask_many(self, count: int) -> list[Answer]:
        """So many connections at once."""
        with ThreadPoolExecutor(count) as threads:
            return [answer for answer, _ in threads.map(lambda _: self.ask(), range(count))]

    def worker_of(self, pid: int) -> int:
        """The worker that a process belongs to: a program may answer from children of its own."""
        if pid not in self._owners:
            ours, process = set(children(self.program.pid)), look(pid)
            while process is not None and process.pid not in ours:
                process = look(process.parent)
            self._owners[pid] = process.pid if process is not None else 0
        return self._owners[pid]

    def all_answer(self) -> set[int]:
        """Asks until each worker has; a program that leaves one out does not return from here."""
        alive = set(children(self.program.pid))
        seen: set[int] = set()
        while len(seen) < self.workers:
            seen.add(self.worker_of(self.ask()[0].pid))
            seen &= alive
        return seen

    # What is promised

    def shares(self) -> list[int]:
        """How many connections each worker is given, of those that come one after the other.

        Of those that come at once, who is late for want of a processor is given fewer, and that is well.
        """
        answers = [self.ask()[0] for _ in range(EACH * self.workers)]
        counts = Counter(self.worker_of(answer.pid) for answer in answers)
        return [counts[worker] for worker in children(self.program.pid)]

    def knows_its_client(self) -> bool:
        """Whether the program is told who asks."""
        return all(
            answer.client in {client, f"::ffff:{client}"} for answer, client in (self.ask() for _ in range(3))
        )

    def kill_one(self, *, lossless: bool) -> None:
        """SIGKILL for a worker; the others answer meanwhile (`lossless`), and its replacement does too."""
        victim = self.worker_of(self.ask()[0].pid)
        os.kill(victim, signal.SIGKILL)
        self.program.expect(r"its slot is filled again", 60, stream="stderr")
        if lossless:
            self.ask_many(self.workers)
        self._wait_ready(self.workers + 1)
        assert victim not in self.all_answer()

    def _wait_ready(self, count: int) -> None:
        """Until so many workers have been ready since the beginning."""
        with everycore.control.connect(path=self.control) as service:
            for event in service.follow():
                count -= event.event == "ready"
                if count == 0:
                    return
        raise AssertionError("the service has ended")

    def reload(self, *, lossless: bool) -> None:
        """All workers are new; whenever something happens meanwhile, requests are answered (`lossless`)."""
        old = set(children(self.program.pid))
        with everycore.control.connect(path=self.control) as service:
            service.reload(timeout=scaled(60), on_event=lambda _: lossless and self.ask_many(self.workers))
        # The others are no longer asked; what listens in C is, until it is gone.
        assert wait_gone(old, 60) == []
        assert not old & self.all_answer()

    def stop_while_slow(self) -> None:
        """TERM while each worker has a request that takes a second: all of them are answered."""
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
    """Everything below, but what Python compiles."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name for name in found if "__pycache__" not in name}


def is_listening(port: int) -> bool:
    """Whether somebody listens on that port of 127.0.0.1, or on all addresses."""
    wanted = re.compile(rf"^ *\d+: \w+:{port:04X} \w+:0000 0A ", re.MULTILINE)
    return any(wanted.search(Path(f"/proc/net/{table}").read_text()) for table in ("tcp", "tcp6"))
