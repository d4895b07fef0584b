"""The garbage collector is off while one of everycore's processes starts, and on for what it runs."""

import gc
import sys

import pytest

from everycore.system import garbage


@pytest.fixture(autouse=True)
def as_before():
    assert gc.isenabled()
    yield
    garbage.collect_again()
    gc.enable()


def test_it_rests_until_the_start_is_over():
    garbage.rest()
    assert not gc.isenabled()
    garbage.collect_again()
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    garbage.rest()
    garbage.collect_again()
    assert not gc.isenabled()


def test_it_is_left_alone_without_a_start():
    gc.disable()
    garbage.collect_again()
    assert not gc.isenabled()


@pytest.mark.slow
def test_it_is_on_for_an_application_and_in_the_primary(start_command, tmp_path):
    """For a program under `everycore run`, see tests/cli/test_run.py."""
    (tmp_path / "says.py").write_text(
        "import gc\nprint('in the application', gc.isenabled(), flush=True)\nasync def app(*_): ...\n"
    )
    source = (
        "import gc, sys, everycore.__main__ as it\n"
        "from everycore.ops.service import Service\n"
        "run = Service.run\n"
        "def told(self):\n"
        "    print('in the primary', gc.isenabled(), flush=True)\n"
        "    return run(self)\n"
        "Service.run = told\n"
        "sys.exit(it.main())\n"
    )
    options = ["serve", "--workers", "1", "--bind", "127.0.0.1:0", "says:app"]
    program = start_command([sys.executable, "-c", source, *options], cwd=tmp_path)
    program.expect("^in the primary True$")
    program.expect("^in the application True$")
    assert program.finish() == 0
