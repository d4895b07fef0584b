"""A pool and its real workers, each feature once: kept alive, asked, scaled, stopped, and given up.

Its decisions in all their variety: `tests/test_pool.py`, in memory.
"""

import re
import signal

import pytest

from everycore import BootError, ChannelClosed, Exited, ExitStatus, Pool, Ready, Settings
from tests.kit.workers import ECHO, Diary, within, worker_script

pytestmark = [pytest.mark.slow]

#: A worker that answers requests with its id; "die" kills it.
ANSWERING = """
async def main():
    me = everycore.current_worker()

    async def answer(message, handle):
        match message:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "ask":
                return await me.request("who?", timeout=None)
        return me.id

    me.answer(answer)
    everycore.ready()
    await for_ever()

everycore.run(main())
"""


async def test_kept_alive_asked_scaled_and_stopped(tmp_path):
    async def answer(message, handle):
        return f"{message} me"

    settings = Settings(exec=worker_script(tmp_path, ANSWERING), stdio="null")
    async with Pool(2, settings=settings) as pool:
        pool.answer(answer)
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        assert {await pool.request("who?", timeout=None) for _ in range(2)} == {1, 2}
        with pytest.raises(ChannelClosed):
            await within(pool.request("die", timeout=None))
        (killed,) = diary.all(Exited)
        replacement = (await diary.until(Ready, count=3)).worker
        assert (replacement.id, replacement.slot) == (3, killed.worker.slot)
        assert await within(replacement.request("ask", timeout=None)) == "who? me"
        pool.scale(1)
        assert (await diary.until(Exited, count=2)).status == ExitStatus(code=0)
        assert [worker.slot for worker in pool.workers.values()] == [0]
        pool.stop()
        await within(pool.wait())
        assert not pool.workers
    assert [event.status for event in diary.all(Exited)[1:]] == [ExitStatus(code=0)] * 2


async def test_gives_up_when_no_worker_was_ever_ready(tmp_path):
    settings = Settings(exec=worker_script(tmp_path, "raise SystemExit(4)"), stdio="null")
    async with Pool(3, settings=settings) as pool:
        with pytest.raises(BootError) as caught:
            await within(pool.wait())
        assert not pool.workers
    assert re.fullmatch(r"worker \d ended before it was ready: exit status 4", caught.value.report)


# Under everycore.run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)])
def test_signal_stops_the_pool_and_replaces_no_worker(start_program, tmp_path, number, status):
    worker = worker_script(tmp_path, ECHO)
    running = start_program(
        f"""
        import everycore

        async def main():
            async with everycore.Pool(2, settings=everycore.Settings(exec={str(worker)!r})) as pool:
                for kind in (everycore.Ready, everycore.Exited, everycore.Forked):
                    pool.cluster.on(kind, lambda it: print(type(it).__name__, it.worker.id, flush=True))
                await pool.wait()

        everycore.run(main())
        """
    )
    running.expect("Ready")
    running.expect("Ready")
    running.signal(number)
    assert running.wait() == status
    assert "3" not in running.stdout
    assert running.stdout.count("Exited") == 2
