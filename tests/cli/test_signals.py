"""Signals of the command line that end nothing, with real processes: `serve` and `run`, both policies."""

import os
import pty
import re
import signal
import sys

import pytest

from tests.kit import wait_gone
from tests.kit.processes import look
from tests.kit.running import ANSWER, ask, run
from tests.kit.serving import command

both_kinds = pytest.mark.parametrize("kind", ["serve", "run"])
both_policies = pytest.mark.parametrize("policy", ["round_robin", "shared"])

PROGRAM = ANSWER + "\nasyncio.run(main())\n"


@pytest.fixture
def start_kind(serve, start_command, tmp_path):
    """Start either command. Returns its program and a function that asks it for an answer."""

    def start(kind, *options):
        if kind == "serve":
            served = serve(*options)
            return served.program, served.get
        running = run(start_command, tmp_path, PROGRAM, options=options)
        port = running.port()
        return running.program, lambda: ask(port)

    return start


def wait_stopped(program, *pids: int) -> None:
    """Wait until the primary is stopped, and these processes, which were told before."""
    os.waitid(os.P_PID, program.pid, os.WSTOPPED)
    while not all(map(is_stopped, pids)):
        os.sched_yield()


def is_stopped(pid: int) -> bool:
    seen = look(pid)
    return seen is not None and seen.state == "T"


# Stop and go on


@pytest.mark.slow
@both_kinds
@both_policies
def test_all_stop_and_go_on_together(start_kind, kind, policy):
    program, get = start_kind(kind, "--policy", policy)
    workers = program.descendants()
    program.signal(signal.SIGTSTP)
    wait_stopped(program, *workers)
    program.signal(signal.SIGCONT)
    program.expect(r"continued, with the workers, after \d+\.\d s", stream="stderr")
    assert len({get() for _ in range(8)}) == len(workers) == 2
    assert program.descendants() == workers
    assert program.finish() == 0


@pytest.mark.slow
@both_kinds
def test_told_to_end_while_stopped_they_end_once_they_go_on(start_kind, kind):
    program, _ = start_kind(kind)
    workers = program.descendants()
    program.signal(signal.SIGTSTP)
    wait_stopped(program, *workers)
    program.signal(signal.SIGTERM)
    program.signal(signal.SIGCONT)
    assert program.wait() == 0
    assert "SIGTERM: finishing the work at hand" in program.stderr
    assert "killed" not in program.stderr


@pytest.mark.slow
@both_kinds
def test_a_primary_that_is_killed_while_stopped_leaves_no_process(start_kind, kind):
    program, _ = start_kind(kind)
    workers = program.descendants()
    program.signal(signal.SIGTSTP)
    wait_stopped(program, *workers)
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert wait_gone(workers) == []


@pytest.mark.ci_only
@pytest.mark.slow
def test_a_worker_that_dies_while_stopped_is_replaced_afterwards(serve):
    served = serve()
    program = served.program
    killed, other = program.descendants()
    program.signal(signal.SIGTSTP)
    wait_stopped(program, killed, other)
    os.kill(killed, signal.SIGKILL)
    assert wait_gone([killed]) == []
    program.signal(signal.SIGCONT)
    program.expect(r"ended: killed by SIGKILL; its slot is filled again", stream="stderr")
    assert served.get() in ("1", "2")
    assert program.finish() == 0


#: At its import, waits until it is told to go on.
BOOTS = """
import os
os.write(1, b"booting\\n")
open(os.environ["GO"]).read()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.slow
def test_one_that_was_not_stopped_is_not_disturbed_by_cont(serve):
    served = serve()
    workers = served.program.descendants()
    served.program.signal(signal.SIGCONT)
    # It has handled that once it has handled two more signals: the first of them may overtake it.
    for _ in range(2):
        served.program.signal(signal.SIGUSR2)
        served.program.expect("SIGUSR2", stream="stderr")
    os.kill(workers[0], signal.SIGSTOP)
    while not is_stopped(workers[0]):
        os.sched_yield()
    served.program.signal(signal.SIGCONT)  # and one of its workers that was, goes on
    while is_stopped(workers[0]):
        os.sched_yield()
    assert served.get() in ("1", "2")
    assert served.program.descendants() == workers
    assert served.program.finish() == 0


# Job control

#: A shell with job control alone: it gives the terminal `argv[1]` to the job, and takes it back when
#: that stops. It prints the signal, and continues the job at a line on its standard input.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
terminal = os.open(sys.argv[1], os.O_RDWR)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    os.tcsetpgrp(terminal, os.getpgrp())
    print("stopped by", signal.Signals(os.WSTOPSIG(status)).name, flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(terminal, job)
    os.killpg(job, signal.SIGCONT)
"""


@pytest.mark.slow
@both_kinds
def test_ctrl_z_and_fg_in_a_terminal(start_command, tmp_path, kind):
    if kind == "serve":
        (tmp_path / "main.py").write_text(BOOTS.replace('open(os.environ["GO"]).read()', ""))
        argv = command("--workers", "2")
    else:
        (tmp_path / "main.py").write_text(PROGRAM)
        argv = [sys.executable, "-m", "everycore", "run", "--workers", "2", "main.py"]
    ours, theirs = pty.openpty()
    try:
        shell = start_command([sys.executable, "-c", SHELL, os.ttyname(theirs), *argv])
        shell.expect("ready: all 2 workers", stream="stderr")
        primary, *workers = shell.descendants()
        for _ in range(2):
            os.write(ours, b"\x1a")
            shell.expect("stopped by SIGTSTP")
            while not all(map(is_stopped, (primary, *workers))):
                os.sched_yield()
            shell.write("fg\n")
            shell.expect("continued, with the workers", stream="stderr")
        assert shell.descendants() == [primary, *workers]
        os.write(ours, b"\x03")
        assert shell.wait() == 0
    finally:
        os.close(theirs)
        os.close(ours)


# Log files

#: Answers with its worker's number, which it logs to a file; warns of a signal that it does not expect.
LOGS = """
import everycore, logging, os

logging.basicConfig(filename="app.log", format="%(message)s", level="INFO")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    worker = str(everycore.current_worker().id)
    logging.info(worker)
    headers = [(b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": worker.encode()})
"""


@pytest.mark.slow
@both_policies
def test_usr1_opens_the_log_files_of_the_application_anew(serve, tmp_path, policy):
    served = serve("--policy", policy, source=LOGS)
    workers = served.program.descendants()
    log = tmp_path / "app.log"
    log.rename(tmp_path / "app.log.1")
    served.program.signal(signal.SIGUSR1)
    served.program.expect("SIGUSR1: the log files are opened anew", stream="stderr")
    while not log.exists() or set(log.read_text().split()) != {"1", "2"}:
        served.get()
    assert served.program.descendants() == workers
    assert served.program.finish() == 0


@pytest.mark.slow
def test_a_worker_that_boots_opens_its_log_files_anew_once_it_listens_to_us(serve, tmp_path):
    """Another worker has SIGUSR1 at its default, which would end it."""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    slow = LOGS + "\nos.write(1, b'booting\\n')\nif 'GO' in os.environ: open(os.environ['GO']).read()\n"
    served = serve(workers=1, source=slow)
    served.program.expect("booting")
    (tmp_path / "main.py").write_text(
        slow.replace("'GO' in os.environ", "True").replace("os.environ['GO']", repr(str(fifo)))
    )
    served.program.signal(signal.SIGTTIN)
    served.program.expect("booting")
    workers = served.program.descendants()
    log = tmp_path / "app.log"
    log.rename(tmp_path / "app.log.1")
    served.program.signal(signal.SIGUSR1)
    served.program.expect("SIGUSR1: the log files are opened anew", stream="stderr")
    fifo.write_text("go")
    while not log.exists() or set(log.read_text().split()) != {"1", "2"}:
        served.get()
    assert served.program.descendants() == workers
    assert served.program.finish() == 0


#: Under `everycore run`: one of the workers handles SIGUSR1 for its own purposes, and the other does not.
HEARS = """
if os.environ["EVERYCORE_SLOT"] == "0":
    signal.signal(signal.SIGUSR1, lambda number, frame: os.write(1, b"heard\\n"))
"""


@pytest.mark.slow
def test_a_program_hears_usr1_if_it_has_a_handler_and_lives_on_if_not(start_command, tmp_path):
    running = run(start_command, tmp_path, ANSWER + HEARS + "\nasyncio.run(main())\n")
    port = running.port()
    before = running.everybody_answers(port)
    running.program.signal(signal.SIGUSR1)
    running.program.expect("heard")
    running.program.expect("SIGUSR1: the log files are opened anew", stream="stderr")
    assert running.everybody_answers(port) == before
    assert running.program.finish() == 0
    assert running.program.stdout.count("heard") == 1


# What does nothing


@pytest.mark.slow
@both_kinds
def test_usr2_is_reserved_and_winch_is_nothing(start_kind, kind):
    program, get = start_kind(kind)
    workers = program.descendants()
    program.signal(signal.SIGWINCH)
    program.signal(signal.SIGUSR2)
    program.expect("SIGUSR2: ignored, it does nothing yet; SIGHUP reloads", stream="stderr")
    assert get()
    assert program.descendants() == workers
    assert program.finish() == 0
    assert not re.search("WINCH", program.stderr)


IGNORED = ["HUP", "USR1", "USR2", "TTIN", "TTOU", "TSTP"]


@pytest.mark.slow
def test_what_was_ignored_at_the_start_stays_ignored(start_command, tmp_path):
    (tmp_path / "main.py").write_text(LOGS)
    shell = ["sh", "-c", f"trap '' {' '.join(IGNORED)}; exec \"$@\"", "sh", *command("--workers", "1")]
    program = start_command(shell)
    program.expect("ready: all", stream="stderr")
    for name in IGNORED:
        program.signal(signal.Signals[f"SIG{name}"])
    assert program.finish() == 0
    assert not re.search("|".join(f"SIG{name}" for name in IGNORED), program.stderr)
