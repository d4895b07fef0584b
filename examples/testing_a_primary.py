"""A primary, and tests of it that start no process: python examples/testing_a_primary.py

pytest runs them too: `pytest examples/testing_a_primary.py`. (A project would keep the tests in another
file.)
"""

import asyncio
import signal

import everycore
from everycore.testing import FakeWorkers, run, settle


class Primary:
    """Two workers that do jobs. A crashed worker is replaced, three times in all; a worker that does not
    answer within ten seconds is killed.
    """

    def __init__(self):
        self.replaced = 0

    async def run(self):
        async with everycore.Cluster(grace=20) as self.cluster:
            self.cluster.on(everycore.Exited, self.replace)
            for _ in range(2):
                self.cluster.fork()
            await self.cluster.wait()

    def replace(self, event):
        if not event.voluntary and self.replaced < 3:
            self.replaced += 1
            self.cluster.fork()

    async def do(self, job):
        for worker in self.cluster.workers.values():
            try:
                return await worker.request(job, timeout=10)
            except everycore.RequestTimeout:
                worker.kill(signal.SIGKILL)
        raise everycore.RequestTimeout("any worker", 10)


def test_a_crashed_worker_is_replaced_three_times():
    async def main():
        with FakeWorkers() as workers:  # well-behaved: ready at once, and they end when asked to leave
            program = asyncio.create_task(Primary().run())
            await settle()  # until nothing more happens
            for _ in range(4):
                workers.all[-1].exit(1)
                await settle()
            assert [worker.id for worker in workers.all if worker.status is None] == [1]
            assert len(workers.all) == 5
            workers.all[0].disconnect()  # it leaves of its own accord
            workers.all[0].exit(0)
            await program

    run(main())


def test_a_worker_that_never_answers_is_killed_and_another_one_asked():
    async def life(worker):
        async def answer(job, handle):
            if worker.id == 1:
                await asyncio.Event().wait()
            return f"{job} done by {worker.id}"

        worker.answer(answer)
        worker.ready()
        await worker.asked_to_leave()

    async def main():
        with FakeWorkers(life) as workers:
            primary = Primary()
            program = asyncio.create_task(primary.run())
            await settle()
            assert await primary.do("job") == "job done by 2"  # ten seconds that the test does not wait
            assert workers.all[0].signals == (signal.SIGKILL,)
            await primary.cluster.disconnect()
            await program

    run(main())


def test_a_worker_that_does_not_leave_has_twenty_seconds():
    async def main():
        with FakeWorkers(life=None) as workers:  # they do nothing on their own
            primary = Primary()
            program = asyncio.create_task(primary.run())
            first, second = await workers.forked(), await workers.forked()
            first.ready()
            second.ready()
            await settle()
            leaving = asyncio.create_task(primary.cluster.disconnect())
            assert await first.asked_to_leave() == 20
            first.exit(0)
            await asyncio.sleep(19)
            assert second.status is None
            await leaving
            assert second.status == everycore.ExitStatus(signal=signal.SIGKILL)
            await program

    run(main())


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(name.removeprefix("test_").replace("_", " "), flush=True)
