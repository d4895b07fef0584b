"""What a process gives up for good, as the kernel reports it (proc(5))."""

import builtins
import errno
import os
import subprocess

import pytest

from everycore.system import privileges
from everycore.system.processes import Credentials, spawn

SHOW = ("grep", "-E", "^(NoNewPrivs|Cap(Inh|Prm|Eff|Amb)|Uid|Gid|Groups):", "/proc/self/status")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


def status_of(text: str) -> dict[str, list[str]]:
    return {name: words.split() for name, words in (line.split(":") for line in text.splitlines())}


@pytest.mark.skipif(os.geteuid() == 0, reason="exec gives root its capabilities back")
def test_an_ordinary_user():
    done = subprocess.run(SHOW, preexec_fn=privileges.giving_up(), capture_output=True, text=True, check=True)
    shown = status_of(done.stdout)
    assert shown["NoNewPrivs"] == ["1"]
    assert {int(shown[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


@needs_root
@pytest.mark.parametrize("new_group", [False, True])
def test_another_user_and_group_and_nothing_besides(new_group):
    started = spawn(
        ["sh", "-c", f"{' '.join(SHOW[:2])} '{SHOW[2]}' {SHOW[3]}; echo Session: $(ps -o sid= -p $$) $$"],
        env=os.environ,
        cwd="/",
        stdio=[subprocess.DEVNULL, subprocess.PIPE, None],
        pass_fds=(),
        credentials=Credentials(65534, 65533, (65532,), is_confined=True),
        new_group=new_group,
    )
    try:
        os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED)
        out = started.pipes[1]
        assert out is not None
        with out:
            shown = status_of(out.read().decode())
    finally:
        os.close(started.pidfd)
    assert shown["Uid"] == ["65534"] * 4
    assert shown["Gid"] == ["65533"] * 4
    assert shown["Groups"] == ["65532"]
    assert shown["NoNewPrivs"] == ["1"]
    assert {int(shown[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert shown["Session"][0] == shown["Session"][1]  # no controlling terminal, into which it could type


def test_what_the_kernel_refuses_is_an_error_of_the_start(monkeypatch):
    def refuse():
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr("everycore.system.processes.giving_up", lambda: refuse)
    with pytest.raises(PermissionError, match="give up its privileges"):
        spawn(
            ["true"],
            env=os.environ,
            cwd="/",
            stdio=[None, None, None],
            pass_fds=(),
            credentials=Credentials(is_confined=True),
            new_group=False,
        )


def test_without_ctypes_no_such_worker_is_started(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "ctypes":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        privileges.giving_up()
