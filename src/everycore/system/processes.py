"""Starting a worker and learning of its end.

A worker is spawned by `subprocess.Popen`, watched by a pidfd and reaped by waitid(2). Invariant: every
process that is started here is reaped exactly once, here. The code is the same on every Python version:
asyncio's own child watcher adds a thread for each child on 3.11, and a primary has no threads, except one
that watches files in development.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any, Final

import msgspec

from everycore.errors import ConfigurationError
from everycore.foreign.signal_internals import signal_of
from everycore.model import ExitStatus
from everycore.system.descriptors import close_all
from everycore.system.leash import Leash
from everycore.system.privileges import giving_up
from everycore.system.statuses import status_of

_PR_SET_PDEATHSIG: Final = 1


class Credentials(msgspec.Struct, frozen=True):
    """The user that a process should become. None: unchanged.

    is_confined: the process regains no privileges (`system.privileges`), and has no controlling terminal,
    into which it could type (ioctl_tty(2), TIOCSTI).
    """

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    umask: int = -1
    is_confined: bool = False


class Spawned(msgspec.Struct, frozen=True):
    """A started process: its pid, a pidfd that becomes readable when it ends, and the ends of its pipes.

    leash: the end of its `Leash` to be closed when the process has ended; -1 without one.
    """

    pid: int
    pidfd: int
    pipes: tuple[IO[bytes] | None, IO[bytes] | None, IO[bytes] | None]
    leash: int = -1


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    stdio: Sequence[Any],
    pass_fds: Sequence[int],
    credentials: Credentials,
    new_group: bool,
    leash: Leash | None = None,
    orphan_signal: int = signal.SIGKILL,
) -> Spawned:
    """Start `argv`. Raises OSError if it cannot be started, and then leaves nothing behind.

    With a `leash`, the process gets `orphan_signal` when this process ends. With `new_group`, SIGKILL goes to
    its whole group.
    """
    process = _started(
        argv,
        credentials,
        env=env,
        cwd=cwd,
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
        pass_fds=pass_fds if leash is None else (*pass_fds, leash.theirs),
        process_group=0 if new_group else None,
        bufsize=0,
    )
    kept = pidfd = -1
    try:
        pidfd = os.pidfd_open(process.pid)
        if leash is not None:
            kept = leash.tie(process.pid, orphan_signal, group=new_group and orphan_signal == signal.SIGKILL)
    except BaseException:  # no descriptor left: nothing would notice the end of this process
        close_all(fd for fd in (pidfd,) if fd >= 0)
        process.kill()
        process.wait()
        _close_pipes(process)
        raise
    # This module reaps the process. A Popen that believes it runs would warn, and might reap it first.
    process.returncode = 0
    return Spawned(process.pid, pidfd, (process.stdin, process.stdout, process.stderr), kept)


#: A child is being started and may run Python until it executes another program: this process must not fork.
is_starting = False


def _started(argv: Sequence[str], credentials: Credentials, **options: Any) -> subprocess.Popen[bytes]:
    """Start the process. Raises OSError if it cannot be started."""
    global is_starting
    if credentials.is_confined:  # this process has one thread, so no lock is held in the child
        options |= {"preexec_fn": giving_up(), "start_new_session": True, "process_group": None}
    is_starting = True
    try:
        return subprocess.Popen(
            argv,
            user=credentials.uid,
            group=credentials.gid,
            extra_groups=credentials.groups,
            umask=credentials.umask,
            **options,
        )
    except subprocess.SubprocessError as exc:
        raise OSError(errno.EPERM, "the kernel does not let it give up its privileges") from exc
    finally:
        is_starting = False


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close this side's ends."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def reap(pidfd: int, *, group: int = 0) -> ExitStatus | None:
    """Return how the process ended (waitid(2), P_PIDFD); None while it runs.

    group: the process group that the process led, if any. If the process was killed, the rest of the group is
    killed too, since the process could not end its children. This happens before it is reaped: until then no
    other process gets its number.

    If the process was reaped elsewhere (`os.wait()` in a program, or by the kernel where SIGCHLD is ignored),
    the `error` of the status is a ChildProcessError.
    """
    try:
        if group:
            _end_group_of_killed(pidfd, group)
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError as error:
        return ExitStatus(error=error)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=signal_of(result.si_status))


def _end_group_of_killed(pidfd: int, group: int) -> None:
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is not None and result.si_code != os.CLD_EXITED:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none left, or another user's
            os.killpg(group, signal.SIGKILL)


def end_child(pid: int) -> None:
    """Kill a child of this process, and reap it."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def reap_strangers(ours: Collection[int]) -> bool:
    """As PID 1: reap the orphans that the kernel has given to this process.

    `ours` are the pids that are reaped elsewhere. Returns False if one of these has ended and is in the way,
    so that orphans may be hidden behind it: call again once it is reaped. (WNOWAIT shows whose turn it is
    first.)
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if found is None:
            return True
        if found.si_pid in ours:
            return False
        os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)


def send_signal(pidfd: int, number: int, *, group: int = 0) -> bool:
    """Signal the process, never another one that got its pid. Returns False if it is gone.

    group: the process group that the process leads gets the signal too. No other process has that number
    before the process is reaped.
    """
    try:
        signal.pidfd_send_signal(pidfd, number)
        if group:
            os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def hears(pid: int, number: int) -> bool:
    """Whether a process has a handler for that signal (proc(5), SigCgt); False without /proc."""
    return bool(int(status_of(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)


def die_with_parent(parent: int) -> bool:
    """Be killed when the parent's spawning thread ends (prctl(2), PR_SET_PDEATHSIG).

    Returns False if the parent is gone already. This is a second means beside the `Leash`: a change of uid
    clears it, and without ctypes, or in a sandbox that forbids the call, it is left out.
    """
    with contextlib.suppress(ImportError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def become_likelier_victim(by: int = 100) -> None:
    """Raise this process's oom_score_adj, so that the kernel kills a worker before it kills the primary."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            value = min(int(os.read(fd, 16)) + by, 1000)
            os.pwrite(fd, b"%d" % value, 0)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return  # this only hardens, and promises nothing


# --- the command line of a worker -------------------------------------------------------------------------

#: Programs that must not be run a second time, named by what the interpreter was told to run.
_NO_SECOND_RUN: Final = ("pytest", "py.test", "pdb", "ipykernel_launcher", "ipykernel", "unittest", "doctest")


def own_command(exec_argv: Sequence[str] | None, args: Sequence[str] | None) -> list[str]:
    """Return this process's command line, to be run again as Node's `cluster.fork` does.

    Raises ConfigurationError if nothing can be run again (REPL, standard input, Jupyter, pytest, pdb, a child
    of multiprocessing). Environment variables never decide this.
    """
    flags, rest = _split_interpreter_flags(sys.orig_argv)
    problem = _why_not(rest)
    if problem:
        raise ConfigurationError(
            "exec", f"this process runs {problem}, which cannot be started again; use setup_primary(exec=...)"
        )
    program, own_args = _split_program(rest)
    return [
        sys.executable,
        *(flags if exec_argv is None else exec_argv),
        *program,
        *(own_args if args is None else args),
    ]


#: Interpreter options that take the next word as their value.
_WITH_VALUE: Final = ("-W", "-X", "--check-hash-based-pycs")


def interpreter_flags() -> list[str]:
    """The flags that this interpreter was started with (`-X`, `-W`, `-O`, ...)."""
    return _split_interpreter_flags(sys.orig_argv)[0]


def program_words() -> list[str]:
    """What this interpreter was told to run: a script, `-m MODULE` or `-c CODE`, and its arguments."""
    return _split_interpreter_flags(sys.orig_argv)[1]


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a Python command line into the interpreter's flags and the program with its arguments."""
    return _split_interpreter_flags(argv)


def _split_interpreter_flags(orig_argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words behind the interpreter into its flags and the rest."""
    words = list(orig_argv[1:])
    flags: list[str] = []
    while words and words[0].startswith("-") and words[0] != "-":
        word = words[0]
        if word in ("-c", "-m"):
            break
        if not word.startswith("--") and word[1] not in "WX":
            for at, letter in enumerate(word[1:], start=1):
                if letter in "cm":  # letters in one word, such as -Sc or -Im, or -mmodule
                    head = word[:at]
                    if len(head) > 1:
                        flags.append(head)
                    tail = word[at + 1 :]
                    return flags, ["-" + letter, *([tail] if tail else []), *words[1:]]
        flags.append(words.pop(0))
        if word in _WITH_VALUE and words:
            flags.append(words.pop(0))
    return flags, words


def _split_program(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    size = 2 if rest[0] in ("-c", "-m") else 1
    return list(rest[:size]), list(rest[size:])


def _why_not(rest: Sequence[str]) -> str | None:
    if not rest:
        return "an interactive interpreter"
    if rest[0] == "-":
        return "a program from standard input"
    if _is_of_multiprocessing(rest):
        return "a child of multiprocessing"
    name = rest[1] if rest[0] == "-m" and len(rest) > 1 else os.path.basename(rest[0])
    stem = name.removesuffix(".py").removesuffix(".__main__")
    if rest[0] == "-m":
        stem = stem.split(".")[0]
    if stem == "__main__" or "/" in rest[0]:
        stem = stem if stem != "__main__" else os.path.basename(os.path.dirname(rest[0]))
    return stem if stem in _NO_SECOND_RUN else None


def _is_of_multiprocessing(rest: Sequence[str]) -> bool:
    """A spawned child shows by its command line from the start; multiprocessing knows a forked one."""
    if "--multiprocessing-fork" in rest:
        return True
    if rest[0] == "-c" and len(rest) > 1 and re.search(r"multiprocessing.*(spawn_main|forkserver)", rest[1]):
        return True
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def script_command(script: str, exec_argv: Sequence[str] | None, args: Sequence[str] | None) -> list[str]:
    """The command that runs the Python script `script`, by default with this program's own arguments."""
    own_args = sys.argv[1:] if args is None else args
    return [sys.executable, *(interpreter_flags() if exec_argv is None else exec_argv), script, *own_args]


# --- users ------------------------------------------------------------------------------------------------


def resolve_credentials(
    uid: int | str | None, gid: int | str | None, groups: Sequence[int | str] | None, umask: int | None
) -> tuple[Credentials, dict[str, str]]:
    """Resolve names to numbers; returns them with HOME, USER and LOGNAME.

    By default the user's own groups apply, as initgroups(3) would set them.
    """
    env: dict[str, str] = {}
    number = user_number(uid) if uid is not None else None
    group = _group("gid", gid) if gid is not None else None
    members = None if groups is None else tuple(_group("groups", name) for name in groups)
    if number is not None:
        try:
            entry = pwd.getpwuid(number)
        except KeyError:  # a container's random uid has no entry, and no groups
            if group is None and number != os.geteuid():
                problem = f"user {number} is not in the user database, so its group must be given"
                raise ConfigurationError("gid", problem) from None
            members = () if members is None else members
        else:
            env = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
            group = entry.pw_gid if group is None else group
            members = tuple(os.getgrouplist(entry.pw_name, group)) if members is None else members
    return Credentials(number, group, members, -1 if umask is None else umask), env


def user_number(name: int | str) -> int:
    """The uid of a user. Raises ConfigurationError if no user has that name."""
    if isinstance(name, int):
        return name
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigurationError("uid", f"there is no user {name!r}") from None


def _group(setting: str, name: int | str) -> int:
    if isinstance(name, int):
        return name
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationError(setting, f"there is no group {name!r}") from None
