"""Each program of the matrix, under both policies: everything promised about it holds, in one run.

Not in the default run. `make matrix` first makes an environment with the third-party packages.
"""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from everycore import ControlError
from tests.kit.matrix_life import Life, files_in, is_even, is_listening
from tests.kit.matrix_probes import Place
from tests.kit.ports import port_of_nobody
from tests.kit.running import command, make_certificate
from tests.matrix.table import POLICIES, PROPERTIES, ROWS, Row

PROGRAMS = Path(__file__).parent / "programs"
WORKERS = 2

pytestmark = [pytest.mark.matrix, pytest.mark.limit(150)]


@pytest.fixture(scope="session")
def pem(tmp_path_factory) -> str:
    """A certificate and its key."""
    return make_certificate(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def here() -> Iterator[SimpleNamespace]:
    """Folders for a program. Their names are short, since they contain unix sockets."""
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        names = {name: str(Path(folder) / name) for name in ("cwd", "tmp", "run")}
        for name in names.values():
            os.mkdir(name, 0o700)
        yield SimpleNamespace(folder=Path(folder), **names)


@pytest.fixture
def start(start_command, here, pem):
    """Starts a row's program at a place."""

    def start(row: Row, place: Place, *options: str):
        words = row.command.format(port=place.port, path=place.path, pem=pem, programs=PROGRAMS).split()
        if words[0].endswith(".py"):
            words[0] = str(PROGRAMS / words[0])
        env = {
            "PYTHONPATH": str(PROGRAMS),
            "TMPDIR": here.tmp,
            "XDG_RUNTIME_DIR": here.run,
            "HOME": here.cwd,
            **row.env,
        }
        return start_command(command(*words, workers=WORKERS, options=options), cwd=here.cwd, env=env)

    return start


class Findings:
    """The findings about a program's properties: after a fault, the next property is still tried."""

    def __init__(self, row: Row, policy: str) -> None:
        self._row, self._policy = row, policy
        self.faults: list[str] = []

    def expects(self, what: str) -> bool:
        """Whether the program is to have that property."""
        assert what in PROPERTIES
        if self._row.is_unix and what in {"address", "in use"}:
            return False
        return self._row.exception(what, self._policy) is None

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except (AssertionError, OSError, ControlError) as error:
            self.faults.append(f"{what}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(", ", "-").replace(" ", "_"))
def test_has_what_is_promised(start, here, record_property, row, policy):
    path = f"{here.cwd}/socket" if row.is_unix else ""
    place = Place(0 if path else port_of_nobody(), path, row.is_tls)
    control = f"{here.run}/control"
    found = Findings(row, policy)
    program = start(row, place, "--policy", policy, "--control", control)
    life = Life(program, place, row.probe, WORKERS, control)
    life.ready()
    with contextlib.ExitStack() as stack:
        second, taken = None, stack.enter_context(taken_port(row))
        if found.expects("in use"):
            second = start(row, Place(taken, is_tls=row.is_tls), "--policy", policy, "--control", "off")
        exercise(life, found)
        if second is not None:
            with found.trying("in use"):
                assert second.wait(60) in {1, 3}
                lines = [
                    line for line in second.stderr.splitlines() if "is in use by another process" in line
                ]
                assert len(lines) == 1, second.report()
                assert lines[0].endswith(f":{taken} is in use by another process")
    with found.trying("clean"):
        assert program.wait(60) == 0
        assert not files_in(here.folder) - {"cwd", "tmp", "run"}
        assert place.path or not is_listening(place.port)
    if found.expects("quiet"):
        with found.trying("quiet"):
            assert "Traceback" not in program.stderr + program.stdout
    if found.faults:
        pytest.fail("\n".join(found.faults), pytrace=False)
    names = [name for name in PROPERTIES if found.expects(name)]
    record_property("matrix", json.dumps([row.name, policy, version_of(row.package), names]))


@contextlib.contextmanager
def taken_port(row: Row) -> Iterator[int]:
    """A port that another process uses."""
    kind = socket.SOCK_DGRAM if row.probe == "udp" else socket.SOCK_STREAM
    with socket.socket(type=kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        yield other.getsockname()[1]


def exercise(life: Life, found: Findings) -> None:
    """One run, up to its end by SIGTERM."""
    lossless = found.expects("lossless")
    with found.trying("all"):
        life.all_answer()
    if found.expects("spread"):
        with found.trying("spread"):
            shares = life.shares()
            assert is_even(shares), shares
    if found.expects("address"):
        with found.trying("address"):
            assert life.knows_its_client()
    if found.expects("killed"):
        with found.trying("killed"):
            life.kill_one(lossless=lossless)
    if found.expects("reload"):
        with found.trying("reload"):
            life.reload(lossless=lossless)
    with found.trying("slow"):
        if found.expects("slow"):
            life.stop_while_slow()
        else:
            life.program.signal()


def version_of(package: str) -> str:
    """The installed version; "" for the standard library."""
    return "" if package == "python" else version(package)
