"""A real systemd as process 1 of its own namespaces. It needs root, cgroups and no other service manager.

It shares the network and the files of this machine, has its own /run, and reads the units of a folder.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tests.kit import Program, scaled, wait_readable
from tests.kit.neighbours import found
from tests.kit.processes import look

SYSTEMD = "/lib/systemd/systemd"
#: Moves this process into a new control group, which is the root of the new namespaces.
_ENTER = """
mkdir "$1" && echo $$ >"$1/cgroup.procs" || exit 77
exec unshare --cgroup -- unshare --pid --fork --mount --uts --ipc --kill-child bash -c "$2" boot "$3"
"""
_BOOT = f"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock
cp "$1"/* /run/systemd/system/
mount -t cgroup2 none /sys/fs/cgroup
exec env -i container=other PATH="$PATH" {SYSTEMD} --system --unit=test.target --log-target=console \
    --show-status=no --default-standard-output=inherit
"""
#: systemd writes into a FIFO when it has booted.
_TARGET = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nRequires=up.service\nAfter=up.service\n"
_UP = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo up >{fifo}'\n"


class RealSystemd:
    """A systemd that knows the `units`, by name. Skips the test if it cannot run."""

    def __init__(self, start_command: Any, folder: Path, units: Mapping[str, str]) -> None:
        if sys.platform != "linux" or os.geteuid() != 0 or not os.path.exists(SYSTEMD):
            pytest.skip("a systemd of its own needs root, and systemd")
        self._nsenter, self._systemctl = found("nsenter"), found("systemctl")
        fifo = folder.parent / "up"
        os.mkfifo(fifo)
        self._up = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        own = {"test.target": _TARGET, "up.service": _UP.format(fifo=fifo)}
        for name, text in {**units, **own}.items():
            (folder / name).write_text(text, encoding="utf-8")
        base = "/sys/fs/cgroup/unified"
        self._group = f"{base if os.path.isdir(base) else '/sys/fs/cgroup'}/everycore-test-{os.getpid()}"
        argv = ["bash", "-c", _ENTER, "enter", self._group, _BOOT, str(folder)]
        self._program: Program = start_command(argv)

    def __enter__(self) -> Self:
        if not self._boot():
            report = self._program.report()
            self._end()
            pytest.skip(f"systemd does not boot here: {report}")
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _boot(self) -> bool:
        wait_readable(self._up, timeout=20)
        return os.read(self._up, 10) != b"" and self._program.is_running

    def _end(self) -> None:
        os.close(self._up)
        self._program.close()
        for folder, _, _ in os.walk(self._group, topdown=False):
            os.rmdir(folder)

    @property
    def pid(self) -> int:
        """The pid of systemd, as seen from outside its namespaces."""
        names = {pid: seen.name for pid in self._program.descendants() if (seen := look(pid)) is not None}
        return next(pid for pid, name in names.items() if name == "systemd")

    def ctl(self, *words: str) -> str:
        """The output of systemctl, which waits for jobs as usual."""
        argv = [self._nsenter, "-t", str(self.pid), "-m", "-p", "-C", self._systemctl, "--no-pager", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=scaled(60), check=False)
        return (done.stdout + done.stderr).strip()
