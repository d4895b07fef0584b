"""Which role may call what, and which command lines can be run again as a worker."""

import asyncio
import math
import os
import sys

import pytest

import everycore
from everycore import Cluster, ConfigurationError, Listening, Ready, RoleError, Settings, State
from tests.kit.workers import Diary, program, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


class TestRoles:
    async def test_current_worker_in_the_primary_is_a_role_error(self):
        with pytest.raises(RoleError):
            everycore.current_worker()
        async with Cluster():
            with pytest.raises(RoleError):
                everycore.current_worker()

    async def test_a_cluster_in_a_worker_is_a_role_error(self, tmp_path):
        source = """
        async def main():
            try:
                everycore.Cluster()
            except everycore.RoleError as error:
                await everycore.current_worker().send(str(error))
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            assert "primary" in (await within(anext(cluster.fork().messages()))).message

    @pytest.mark.ci_only
    def test_pytest_itself_cannot_be_started_again(self, pytester):
        pytester.makepyfile(
            """
            import asyncio
            import everycore

            def test():
                async def fork():
                    async with everycore.Cluster() as cluster:
                        cluster.fork()

                asyncio.run(fork())
            """
        )
        pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:anyio").stdout.fnmatch_lines(
            ["*ConfigurationError: *setup_primary(exec=*"]
        )

    def test_ready_outside_a_worker_does_nothing(self):
        everycore.ready()

    async def test_hold_ready_and_ready(self, tmp_path):
        source = """
        async def echo(reader, writer):
            writer.close()

        async def main():
            me = everycore.current_worker()
            me.hold_ready()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await me.send("listening")
            async for message in me.messages():
                everycore.ready()
                everycore.ready()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            address = (await diary.until(Listening)).address
            await within(anext(worker.messages()))
            assert worker.state is State.LISTENING
            assert not worker.is_ready
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            await worker.send("go")
            await diary.until(Ready)
            assert worker.is_ready
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            await writer.wait_closed()
            worker.disconnect()
            await within(worker.wait())
            assert diary.names(worker).count("Ready") == 1


class TestArguments:
    """A Cluster refuses wrong arguments when it is made, and names the setting."""

    @pytest.mark.parametrize("name", ["grace", "hold_timeout", "recall_after", "orphan_grace"])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True], ids=repr)
    def test_seconds(self, name, value):
        self.is_refused(name, value)

    @pytest.mark.parametrize("name", ["grace", "hold_timeout", "orphan_grace"])
    def test_no_seconds(self, name):
        """`recall_after=None` stands for the policy's default."""
        self.is_refused(name, None)

    def is_refused(self, name, value):
        with pytest.raises(ConfigurationError, match=name) as caught:
            Cluster(**{name: value})
        assert isinstance(caught.value, ValueError)
        assert caught.value.setting == name

    @pytest.mark.parametrize("value", [0, -1, 1.5, "1", True], ids=repr)
    def test_the_largest_message(self, value):
        with pytest.raises(ConfigurationError, match="max_message"):
            Cluster(max_message=value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("uid", -5),
            ("uid", True),
            ("uid", ""),
            ("uid", 2**33),
            ("gid", -1),
            ("uid", "a\0b"),
            ("groups", [-3]),
            ("groups", [None]),
            ("groups", 5),
            ("groups", "staff"),
            ("cwd", "a\0b"),
            ("cwd", 5),
            ("exec", ""),
            ("exec", "a\0b"),
        ],
        ids=repr,
    )
    def test_settings_that_no_process_can_have(self, name, value):
        with pytest.raises(ConfigurationError) as caught:
            Settings(**{name: value})
        assert caught.value.setting == name

    def test_choices_list_what_is_known(self):
        with pytest.raises(ConfigurationError, match=r"when_no_worker.*refuse, hold"):
            Cluster(when_no_worker="panic")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"fastest.*round_robin"):
            Cluster(policy="fastest")

    def test_a_policy_of_the_environment_is_named_as_such_and_loses_to_an_argument(self, monkeypatch):
        monkeypatch.setenv("EVERYCORE_POLICY", "fastest")
        with pytest.raises(ConfigurationError, match=r"EVERYCORE_POLICY.*fastest.*round_robin"):
            Cluster()
        Cluster(policy="round_robin")
        Cluster(Settings(policy="round_robin"))


class TestCommandLines:
    """A worker is the same command line again."""

    SOURCE = program(
        """
        async def main():
            if everycore.is_primary:
                async with everycore.Cluster() as cluster:
                    status = await cluster.fork().wait()
                    say("worker:", status)
            else:
                say("argv", sys.argv[1:], "flags", sys.flags.optimize, "cwd", os.getcwd())

        if __name__ == "__main__":
            everycore.run(main())
        """
    )

    def test_a_script_with_arguments_flags_and_a_relative_path(self, start_command, tmp_path):
        (tmp_path / "server.py").write_text(self.SOURCE)
        running = start_command([sys.executable, "-O", "server.py", "a b", "-c"])
        assert running.expect("argv").string == f"argv ['a b', '-c'] flags 1 cwd {tmp_path}"
        running.expect("worker: exit status 0")
        assert running.wait() == 0

    def test_the_working_directory_is_the_one_at_import(self, start_program, tmp_path):
        running = start_program(self.SOURCE.replace("async with", "os.chdir('/')\n        async with", 1))
        running.expect(f"argv .* cwd {tmp_path}$")
        assert running.wait() == 0

    def test_a_module(self, start_command, tmp_path):
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__init__.py").touch()
        (tmp_path / "package" / "server.py").write_text(self.SOURCE)
        running = start_command([sys.executable, "-m", "package.server", "x"])
        running.expect(r"argv \['x'\]")
        running.expect("worker: exit status 0")
        assert running.wait() == 0

    def test_a_package_with_a_main(self, start_command, tmp_path):
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__main__.py").write_text(self.SOURCE)
        for argv in (["-m", "package"], ["package"]):
            running = start_command([sys.executable, *argv, "x"])
            running.expect(r"argv \['x'\]")
            running.expect("worker: exit status 0")
            assert running.wait() == 0

    def test_a_command_string(self, start_command):
        running = start_command([sys.executable, "-Oc", self.SOURCE, "x"])
        running.expect(r"argv \['x'\] flags 1")
        running.expect("worker: exit status 0")
        assert running.wait() == 0

    def test_standard_input_is_refused_in_one_sentence(self, start_command):
        running = start_command([sys.executable, "-"])
        running.write(self.SOURCE)
        running.close_stdin()
        running.expect(r"ConfigurationError: exec: .*standard input.*setup_primary\(exec=", stream="stderr")
        assert running.wait() == 1

    def test_no_program_at_all_is_refused_the_same_way(self, start_command):
        """`python < script`: an interpreter without a program to name."""
        running = start_command([sys.executable])
        running.write(self.SOURCE)
        running.close_stdin()
        running.expect(r"ConfigurationError: exec: .*setup_primary\(exec=", stream="stderr")
        assert running.wait() == 1

    def test_a_script_whose_name_looks_like_a_tool_s(self, start_command, tmp_path):
        """The running program decides, not variables such as PYTEST_CURRENT_TEST, which this process has."""
        assert "PYTEST_CURRENT_TEST" in os.environ
        (tmp_path / "mypytest.py").write_text(self.SOURCE)
        running = start_command([sys.executable, "mypytest.py"])
        running.expect("worker: exit status 0")
        assert running.wait() == 0

    @pytest.mark.parametrize("module", ["pdb", "unittest"])
    def test_a_tool_s_module_is_refused(self, start_command, tmp_path, module):
        (tmp_path / "test_it.py").write_text(
            program(
                """
                import unittest

                async def main():
                    async with everycore.Cluster() as cluster:
                        try:
                            cluster.fork()
                        except everycore.ConfigurationError as error:
                            say("refused", error)

                class TestIt(unittest.TestCase):
                    def test_it(self):
                        everycore.run(main())

                if __name__ == "__main__":
                    everycore.run(main())
                """
            )
        )
        argv = ["-m", "pdb", "-c", "continue", "-c", "quit", "test_it.py"]
        if module == "unittest":
            argv = ["-m", "unittest", "test_it"]
        running = start_command([sys.executable, *argv])
        running.close_stdin()
        running.expect(rf"refused exec: .*{module}.*setup_primary\(exec=")
        running.wait()

    def test_jupyter_is_refused(self, start_command, tmp_path):
        (tmp_path / "ipykernel_launcher.py").write_text(self.SOURCE)
        running = start_command([sys.executable, "-m", "ipykernel_launcher", "-f", "kernel.json"])
        running.expect(r"ConfigurationError: exec: .*ipykernel_launcher.*exec=", stream="stderr")
        assert running.wait() == 1

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_a_child_of_multiprocessing_is_refused(self, start_program, method):
        source = program(
            f"""
            import multiprocessing

            async def main():
                async with everycore.Cluster() as cluster:
                    try:
                        cluster.fork()
                    except everycore.ConfigurationError as error:
                        say("refused", error)

            def child():
                everycore.run(main())

            if __name__ == "__main__":
                process = multiprocessing.get_context({method!r}).Process(target=child)
                process.start()
                process.join()
            """
        )
        running = start_program(source)
        running.expect(r"refused exec: .*multiprocessing.*setup_primary\(exec=")
        assert running.wait() == 0

    @pytest.mark.parametrize("closed_before", [False, True], ids=["at once", "after a cluster of the parent"])
    def test_a_process_forked_before_its_cluster_is_opened(self, start_program, closed_before):
        """A program that makes itself a daemon does so."""
        running = start_program(
            program(
                f"""
                async def empty():
                    async with everycore.Cluster():
                        pass

                async def main():
                    async with everycore.Cluster() as cluster:
                        say(os.getpid() == parent, "worker:", await cluster.fork().wait())

                parent = os.getpid()
                if everycore.is_worker:
                    say("worked")
                else:
                    if {closed_before}:
                        everycore.run(empty())
                    if child := os.fork():
                        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                    assert everycore.is_primary
                    everycore.run(main())
                """
            )
        )
        running.expect("worked")
        running.expect("False worker: exit status 0")
        assert running.wait() == 0

    def test_a_program_may_name_another_as_its_worker(self, start_command, tmp_path):
        (tmp_path / "worker.py").write_text(program('say("argv", sys.argv[1:])'))
        code = program(
            """
            async def main():
                async with everycore.Cluster() as cluster:
                    cluster.setup_primary(exec="worker.py", args=["x"])
                    say("worker:", await cluster.fork().wait())
            everycore.run(main())
            """
        )
        running = start_command([sys.executable, "-"])
        running.write(code)
        running.close_stdin()
        running.expect(r"argv \['x'\]")
        running.expect("worker: exit status 0")
        assert running.wait() == 0
