"""The programs under tools/ that find a Python and run the tests with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import scaled
from tests.kit.folders import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.limit(120)]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is told so: exit status 77")


def tool(*argv, before=(), **env):
    return subprocess.run(
        [*before, *argv],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(100),
    )


def test_a_python_that_is_here_is_found():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    where = str(Path(sys.base_prefix) / "bin")
    found = tool("tools/find-python", version, PATH=f"{where}:{os.environ['PATH']}")
    assert found.returncode == 0
    asked = tool(found.stdout.strip(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    assert asked.stdout.strip() == version


def test_one_that_is_not_is_not_found():
    found = tool("tools/find-python", "3.2")
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")


@needs_root
@pytest.mark.parametrize(
    "arguments",
    [[], ["test"], ["test", "3"], ["test", "../3.15"], ["run", "3.15"], ["remove", "3.15"]],
    ids=" ".join,
)
def test_a_command_line_that_makes_no_sense_makes_no_folder(tmp_path, arguments):
    done = tool("tools/newer-pythons", *arguments, EVERYCORE_SID=str(tmp_path / "sid"))
    assert done.returncode == 64
    assert not (tmp_path / "sid").exists()


@needs_root
@pytest.mark.parametrize("arguments", [["test", "3.15"], ["remove"]], ids=" ".join)
def test_a_folder_that_it_has_not_made_is_left_alone(tmp_path, arguments):
    (tmp_path / "sid").mkdir()
    (tmp_path / "sid" / "precious").write_text("mine")
    done = tool("tools/newer-pythons", *arguments, EVERYCORE_SID=str(tmp_path / "sid"))
    assert done.returncode == 73
    assert "was not made by this program" in done.stderr
    assert (tmp_path / "sid" / "precious").read_text() == "mine"


@needs_root
def test_a_mirror_that_does_not_answer_fails_no_test(tmp_path):
    (tmp_path / "apt.conf").write_text('Acquire::Retries "0";\n')  # or apt-get waits before it tries again
    done = tool(
        "tools/newer-pythons",
        "test",
        "3.15",
        before=["unshare", "--net"],
        APT_CONFIG=str(tmp_path / "apt.conf"),
        EVERYCORE_SID=str(tmp_path / "sid"),
    )
    assert done.returncode == 69
    assert "Nothing was tested." in done.stderr.splitlines()[-1]
    assert not (tmp_path / "sid").exists()  # so that the next run makes it from the start


@pytest.mark.parametrize("target", ["decoders", "histories", "mailboxes"])
def test_inputs_that_the_fuzzer_has_found_pass_now(target):
    done = tool(sys.executable, "tools/fuzz.py", target, "--replay")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 5


def test_the_fuzzer_says_how_it_is_used():
    done = tool(sys.executable, "tools/fuzz.py")
    assert done.returncode == 2
    assert "--replay" in done.stderr
