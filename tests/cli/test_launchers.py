"""Where the command finds its code, and in which folder it runs: start scripts, archives, odd folders."""

import os
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

import everycore
from tests.kit import Program
from tests.kit.running import ask, ask_http
from tests.kit.serving import complaint, wait_serving

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

#: Answers with where everycore was found, and what is on the path.
APP = """
import everycore, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = repr([everycore.__file__, *sys.path]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

PROGRAM = """
import socket, sys

def found():
    import everycore
    return everycore.__file__

with socket.create_server((sys.argv[1], 0)) as sock:
    while True:
        connection, _ = sock.accept()
        with connection:
            connection.recv(100)
            connection.sendall(repr([found(), *sys.path]).encode())
"""

SOURCE = Path(everycore.__file__).parent
PACKAGES = Path(msgspec.__file__).parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "main.py").write_text(APP, encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    return tmp_path


def start_script(folder: Path) -> list[str]:
    """A script as zc.buildout and Nix write it. The interpreter itself has only the standard library."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "start"
    script.write_text(
        f"import sys\nsys.path[0:0] = {[str(SOURCE.parent), str(PACKAGES)]!r}\n"
        "from everycore.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
        encoding="utf-8",
    )
    return [sys.executable, "-S", "-E", str(script)]


def archive(folder: Path) -> list[str]:
    """An archive as zipapp makes it, of pure Python code."""
    path = folder / "service.pyz"
    with zipfile.ZipFile(path, "w") as file:
        for module in SOURCE.rglob("*.py"):
            file.write(module, Path("everycore") / module.relative_to(SOURCE))
        file.writestr("__main__.py", "import sys\nfrom everycore.cli.main import main\nsys.exit(main())\n")
    return [sys.executable, str(path)]


@pytest.mark.parametrize("launcher", [start_script, archive])
class TestTheModuleSearchPathIsTheLaunchers:
    @pytest.mark.ci_only
    def test_serve(self, start_command, folder, launcher):
        argv = [*launcher(folder), "serve", "--workers", "2", "--bind", "127.0.0.1:0", "main:app"]
        served = wait_serving(start_command(argv, cwd=folder))
        found, first, *path = eval(ask_http(served.port))
        self.check(launcher, folder, found, path)
        assert first == str(folder)
        assert served.program.finish() == 0

    def test_run(self, start_command, folder, launcher):
        argv = [*launcher(folder), "run", "--workers", "2", "program.py", "127.0.0.1"]
        program = start_command(argv, cwd=folder)
        port = int(program.expect(r"listens on tcp://127\.0\.0\.1:(\d+)", stream="stderr")[1])
        found, first, *path = eval(ask(port))
        self.check(launcher, folder, found, path)
        assert first == str(folder)
        assert program.finish() == 0

    def check(self, launcher, folder, found, path):
        if launcher is archive:
            assert found == str(folder / "service.pyz" / "everycore" / "__init__.py")
            assert path[0] == str(folder / "service.pyz")
        else:
            assert path[:2] == [str(SOURCE.parent), str(PACKAGES)]
            assert str(folder / "bin") not in path


def import_hook(folder: Path) -> list[str]:
    """A start script that finds modules by its own hook, which no worker has."""
    return written(
        folder,
        f"""
class Hook:
    def find_spec(self, name, path=None, target=None):
        return PathFinder.find_spec(name, {[str(SOURCE.parent), str(PACKAGES)]!r} if path is None else path)

sys.meta_path.append(Hook())
""",
    )


def moved_on(folder: Path) -> list[str]:
    """A start script with relative entries that goes elsewhere after its first import."""
    (folder / "lib").mkdir()
    for package in (SOURCE, *(PACKAGES / name for name in ("msgspec", "click"))):
        (folder / "lib" / package.name).symlink_to(package)
    return written(
        folder,
        f"""
os.chdir({str(folder)!r})
sys.path.insert(0, "lib")
import everycore.cli.main
os.chdir("elsewhere")
""",
    )


def written(folder: Path, preparation: str) -> list[str]:
    script = folder / "start"
    script.write_text(
        f"import os, sys\nfrom importlib.machinery import PathFinder\n{preparation}\n"
        "from everycore.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
        encoding="utf-8",
    )
    return [sys.executable, "-S", "-E", str(script)]


@pytest.mark.parametrize("launcher", [import_hook, moved_on])
def test_a_worker_finds_what_the_start_script_has_found(start_command, folder, launcher):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "main.py").write_text(
        "import everycore\nprint(everycore.is_worker, everycore.__file__)\n"
    )
    argv = [*launcher(folder), "run", "--workers", "1", "main.py"]
    program = start_command(argv, cwd=folder / "elsewhere")
    assert program.wait() == 0
    assert program.stdout.startswith("True /")


def test_the_variable_that_carries_the_path_reaches_no_program(start_command, folder):
    (folder / "main.py").write_text("import os\nprint(sorted(os.environ))\n", encoding="utf-8")
    argv = [sys.executable, "-m", "everycore", "run", "--workers", "1", "main.py"]
    program = start_command(argv, cwd=folder)
    assert program.wait() == 0
    assert "'PATH'" in program.stdout
    assert "EVERYCORE_PATH" not in program.stdout


# --- folders ------------------------------------------------------------------------------------------------

NOT_UTF8 = {"": None, "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}}


@pytest.fixture
def odd_folder(tmp_path) -> str:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(name)
    return name


def serve(start_command, folder: str, *options: str, source: str = APP, env=None) -> Program:
    with open(os.path.join(folder, "main.py"), "w", encoding="utf-8") as file:
        file.write(source)
    argv = [sys.executable, "-P", "-m", "everycore", "serve", "--workers", "1", *options, "main:app"]
    return start_command(argv, cwd=folder, env=env)


@pytest.mark.parametrize("env", NOT_UTF8.values(), ids=NOT_UTF8)
def test_a_folder_whose_name_is_not_utf8(start_command, odd_folder, env):
    path = os.path.join(odd_folder, "socket")
    program = serve(start_command, odd_folder, "--bind", "127.0.0.1:0", "--bind", f"unix:{path}", env=env)
    served = wait_serving(program)
    assert "everycore" in ask_http(served.port)
    assert os.path.exists(path)
    assert program.finish() == 0
    assert not os.path.exists(path)
    assert "Traceback" not in program.stderr


def test_a_failure_in_such_a_folder_is_told(start_command, odd_folder):
    program = serve(start_command, odd_folder, "--bind", "127.0.0.1:0", source="1 / 0\n")
    assert program.wait() == 3
    lines = complaint(program)
    assert lines[0] == "everycore: cannot start main:app:"
    assert r"caf\udce9/main.py" in lines[2]
    assert lines[-1] == "ZeroDivisionError: division by zero"


class TestAFolderThatIsGone:
    LEAVE = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone');"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )

    def start(self, start_command, folder, *words: str) -> Program:
        command = [sys.executable, "-P", "-m", "everycore", *words]
        return start_command([sys.executable, "-c", self.LEAVE, *command], cwd=folder)

    def test_what_is_named_from_the_root_works(self, start_command, folder):
        socket = f"unix:{folder / 'socket'}"
        options = ["--workers", "1", "--bind", "127.0.0.1:0", "--bind", socket, "--app-dir", str(folder)]
        served = wait_serving(self.start(start_command, folder, "serve", *options, "main:app"))
        assert "everycore" in ask_http(served.port)
        assert served.program.finish() == 0

    def test_a_folder_that_is_gone_gets_one_sentence(self, start_command, folder):
        program = self.start(start_command, folder, "serve", "--workers", "1", "main:app")
        assert program.wait() == 2
        assert complaint(program)[0] == (
            "everycore: --app-dir: the current folder no longer exists; use a path that begins at the root"
        )

    def test_a_program_is_in_no_other_folder(self, start_command, folder):
        """A program that serves the files of its folder would otherwise serve those of another."""
        (folder / "where.py").write_text("import os\nos.open('.', os.O_RDONLY)\nprint(os.listdir('.'))\n")
        program = self.start(start_command, folder, "run", "--workers", "1", str(folder / "where.py"))
        assert program.wait() == 0
        assert program.stdout == "[]\n"
