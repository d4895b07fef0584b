"""Another user, for tests that root runs, and a Python that this user can run too.

The interpreter of the tests may be in a folder that only root can enter. Then the system's own is used, if it
has the same version, with the packages of the tests.
"""

import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.folders import SOURCE

#: nobody and nogroup, which have these numbers on every Debian.
UID = GID = 65534


@functools.cache
def python_for_others() -> tuple[str, dict[str, str]]:
    """The interpreter and its environment. Skips the test if there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root starts processes of another user")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = os.pathsep.join((str(SOURCE.parent), sysconfig.get_path("purelib")))
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [python, "-c", "import click, msgspec, everycore"]
        try:
            done = subprocess.run(
                command,
                env=env,
                cwd="/",
                user=UID,
                group=GID,
                extra_groups=(),
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python, env
    pytest.skip(f"{sys.executable} lies where another user cannot run it, and there is no other {version}")


@contextmanager
def folder_for_others() -> Iterator[Path]:
    """A new folder of root's that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="everycore-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
