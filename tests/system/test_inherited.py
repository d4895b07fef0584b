"""Limits that a process inherits, in separate processes."""

import sys

import pytest

from tests.kit.workers import HEAD

LIMITED = (
    HEAD
    + """
import resource

def limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)

async def primary():
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
    async with everycore.Cluster(**eval(sys.argv[1])) as cluster:
        say("primary", *limit())
        await cluster.fork().wait()

async def worker():
    say("worker", *limit())

everycore.run(primary() if everycore.is_primary else worker())
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "soft"), [("{}", 300), ("{'raise_nofile': False}", 200)])
def test_the_soft_limit_of_descriptors_is_raised_unless_told_not_to(start_program, options, soft):
    program = start_program(LIMITED, options)
    assert program.wait() == 0
    assert program.stdout.splitlines() == [f"primary {soft} 300", f"worker {soft} 300"]


PROGRAM = "import resource; print('worker', *resource.getrlimit(resource.RLIMIT_NOFILE))"


@pytest.mark.slow
@pytest.mark.parametrize(("options", "soft"), [([], 300), (["--keep-nofile"], 200)])
def test_so_it_is_by_the_command_line(start_command, tmp_path, options, soft):
    (tmp_path / "limits.py").write_text(PROGRAM, encoding="utf-8")
    limited = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 300; exec "$@"', "sh"]
    command = [sys.executable, "-m", "everycore", "run", *options, "--workers", "1", "-m", "limits"]
    program = start_command([*limited, *command])
    assert program.wait() == 0
    assert program.stdout == f"worker {soft} 300\n"
