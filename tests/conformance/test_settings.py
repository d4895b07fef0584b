"""How workers are started: `Settings` and `setup_primary`, as in Node's `setupPrimary`."""

import os

import pytest

from everycore import Cluster, ConfigurationError, Settings, SetUp
from tests.conformance.node import node
from tests.kit import turn
from tests.kit.traffic import Agent, agents
from tests.kit.workers import Diary, heard, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Sends the primary the value of `WHAT`.
TELL = """
async def main():
    await everycore.current_worker().send(eval(os.environ["WHAT"]))
everycore.run(main())
"""


@node(
    "test-cluster-advanced-serialization",
    adapted='`serialization="pickle"` is the richer format here; cyclic values pass, as with "advanced".',
)
async def test_cluster_advanced_serialization(tmp_path):
    """Pickle stands for Node's structured clones; JSON refuses the same value in both."""
    source = """
    async def main():
        me = everycore.current_worker()
        async for message in me.messages():
            await me.send(message.message)
    everycore.run(main())
    """
    circular: dict[str, object] = {"value": 1}
    circular["self"] = circular
    script = worker_script(tmp_path, source)
    async with Cluster(Settings(exec=script, serialization="pickle")) as cluster:
        worker = cluster.fork()
        await worker.send(circular)
        echo = await heard(worker)
        assert echo is not circular
        assert echo["self"] is echo
        assert echo["value"] == 1
    async with Cluster(Settings(exec=script)) as cluster:
        with pytest.raises((TypeError, ValueError)):
            cluster.fork().send_nowait(circular)


@node("test-cluster-cwd")
async def test_cluster_cwd(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = Settings(exec=worker_script(tmp_path, TELL), env={"WHAT": "os.getcwd()"})
    async with Cluster(settings) as cluster:
        assert cluster.settings.cwd is None
        by_default = cluster.fork()
        cluster.setup_primary(cwd=folder)
        assert cluster.settings.cwd == folder
        elsewhere = cluster.fork()
        assert await heard(by_default) == os.getcwd()
        assert await heard(elsewhere) == str(folder)


@node("test-cluster-setup-primary")
async def test_cluster_setup_primary(tmp_path, capfd):
    source = """
    print("on stdout", flush=True)

    async def main():
        await everycore.current_worker().send(sys.argv[1:])
    everycore.run(main())
    """
    async with Cluster() as cluster:
        diary = Diary(cluster)
        cluster.setup_primary(exec=worker_script(tmp_path, source), args=["custom argument"], silent=True)
        assert (cluster.settings.args, cluster.settings.silent) == (["custom argument"], True)
        for worker in [cluster.fork() for _ in range(2)]:
            assert await heard(worker) == ["custom argument"]
            assert worker.stdout is not None
            assert await within(worker.stdout.readline()) == b"on stdout\n"
        (event,) = diary.all(SetUp)
        assert event.settings == cluster.settings
        await within(cluster.disconnect())
    assert capfd.readouterr().out == ""


@node(
    "test-cluster-setup-primary-argv",
    adapted="`args` stays None and means this program's arguments: those of sys.argv at the fork if "
    "`exec` names a script, the original ones if this same program is run again.",
)
def test_cluster_setup_primary_argv(tmp_path, start_program):
    """Node copies process.argv into the settings at the call. Here None stands for it until the fork.

    A program that is run again gets its original command line, because it will change its sys.argv again
    itself.
    """
    program = start_program(
        f"""
        import asyncio, sys
        import everycore

        async def main():
            sys.argv += ["OMG,OMG", "OMG,OMG"]
            async with everycore.Cluster() as cluster:
                cluster.on(everycore.SetUp, lambda event: print("set up", event.settings.args))
                cluster.setup_primary()
                for exec in (None, {str(worker_script(tmp_path, TELL))!r}):
                    cluster.setup_primary(exec=exec)
                    worker = cluster.fork({{"WHAT": "sys.argv[1:]"}})
                    print((await anext(worker.messages())).message)
                    await worker.wait()

        async def work():
            await everycore.current_worker().send(sys.argv[1:])

        everycore.run(work() if everycore.is_worker else main())
        """,
        "typed",
    )
    program.expect(r"^set up None$")
    program.expect(r"^\['typed'\]$")
    program.expect(r"^\['typed', 'OMG,OMG', 'OMG,OMG'\]$")
    assert program.wait() == 0


@node("test-cluster-setup-primary-emit")
async def test_cluster_setup_primary_emit():
    async with Cluster() as cluster:
        diary = Diary(cluster)
        wanted = []
        for args in (["foo"], ["bar"]):
            cluster.setup_primary(args=args)
            wanted.append(cluster.settings)
        assert diary.events == []  # never from within the call
        await turn()
        assert [event.settings for event in diary.all(SetUp)] == wanted
        assert [settings.args for settings in wanted] == [["foo"], ["bar"]]


@node("test-cluster-setup-primary-multiple")
async def test_cluster_setup_primary_multiple(tmp_path):
    async with Cluster() as cluster:
        diary = Diary(cluster)
        for number in range(3):
            script = worker_script(tmp_path, TELL, f"program-{number}.py")
            cluster.setup_primary(exec=script)
            event = await diary.until(SetUp, count=number + 1)
            assert event.settings.exec == script
            worker = cluster.fork({"WHAT": "os.path.basename(sys.argv[0])"})
            assert await heard(worker) == script.name
        assert len(diary.all(SetUp)) == 3


@node("test-cluster-import-scheduling-policy")
async def test_cluster_import_scheduling_policy(tmp_path, policy):
    other = {"round_robin": "shared", "shared": "round_robin"}[policy]
    async with agents(tmp_path, 0, policy=other) as (cluster,):
        cluster.setup_primary(policy=policy)
        assert (cluster.settings.policy, cluster.policy) == (policy, policy)
        worker = Agent(cluster.fork())
        await within(worker.serve())
        assert [listener.policy for listener in cluster.snapshot().listeners] == [policy]
        with pytest.raises(ConfigurationError, match="first fork"):
            cluster.setup_primary(policy=other)
        assert cluster.policy == policy
