"""What /proc says about a process."""

import os

from everycore.system.resident import stderr_of


def test_where_a_process_writes_fits_into_a_line(tmp_path):
    """The name of the file may contain anything."""
    kept = os.dup(2)
    try:
        with open(os.fsencode(tmp_path) + b"/\x1b[31m\n\xff", "wb") as file:
            os.dup2(file.fileno(), 2)
        found = stderr_of(os.getpid())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert found == rf"{tmp_path}/\x1b[31m\n\udcff"


def test_of_a_process_that_is_gone_nothing_is_told():
    assert stderr_of(2**30) is None
