"""A worker's end, as the primary sees it.

end = End(cluster, worker)
await within(worker.wait())
end.check(ExitStatus(code=42), voluntary=False)
"""

from everycore import Cluster, Disconnected, Exited, ExitStatus, State, Worker
from tests.kit.processes import look


class End:
    """How one worker ends: what is seen at its `Disconnected` and its `Exited`."""

    def __init__(self, cluster: Cluster, worker: Worker) -> None:
        self.worker = worker
        #: (voluntary, state, still in `workers`), and (voluntary, process gone, still in `workers`).
        self.disconnected: list[tuple[bool, State, bool]] = []
        self.exited: list[tuple[bool, bool, bool]] = []
        self.statuses: list[ExitStatus] = []
        worker.on(
            Disconnected,
            lambda event: self.disconnected.append(
                (worker.exited_voluntarily, worker.state, worker.id in cluster.workers)
            ),
        )
        worker.on(Exited, lambda event: self.statuses.append(event.status))
        worker.on(
            Exited,
            lambda event: self.exited.append(
                (worker.exited_voluntarily, look(worker.pid or 0) is None, worker.id in cluster.workers)
            ),
        )

    def check(self, status: ExitStatus, *, voluntary: bool) -> None:
        """Check that each event came once, the process was gone, and it ended with this status."""
        assert self.disconnected == [(voluntary, State.DISCONNECTED, True)]
        assert self.exited == [(voluntary, True, False)]
        assert self.statuses == [status]
