"""What the log says about processes that a program starts in order to listen."""

import os
import sys
from typing import NoReturn

import pytest

from everycore.worker.intercept import children
from everycore.worker.intercept.state import registry


@pytest.mark.parametrize(
    ("packages", "words", "who", "option"),
    [
        (["uvicorn"], ["uvicorn", "--reload", "a:b"], "uvicorn", "--reload"),
        (["uvicorn"], ["uvicorn", "a:b"], "uvicorn", "--workers"),
        (["uvicorn", "fastapi_cli"], ["fastapi", "dev"], "fastapi_cli", "--no-reload"),
        (["uvicorn", "fastapi_cli"], ["fastapi", "run"], "fastapi_cli", "--workers"),
        (["asyncio", "hypercorn"], [], "hypercorn", "--workers 0"),
        (["sanic"], [], "sanic", "--single-process"),
        (["werkzeug", "flask"], [], "werkzeug", "--no-reload"),
        (["django"], ["manage.py", "runserver"], "django", "--noreload"),
        (["elsewhere"], [], "this program", "--workers"),
    ],
)
def test_the_remedy_names_the_programs_own_option(packages, words, who, option):
    found, remedy = children._remedy(packages, words)
    assert found == who
    assert option in remedy


@pytest.mark.parametrize(
    ("words", "is_it"),
    [
        ([sys.executable, "manage.py", "runserver", "80"], True),
        ([sys.executable, "-X", "dev", "manage.py", "runserver", "80"], True),
        ([sys.executable, os.path.abspath("manage.py"), "runserver", "80"], True),
        (["python3.11", "-W", "error", "manage.py", "runserver", "80"], True),
        ([sys.executable, "manage.py", "migrate"], False),
        ([sys.executable, "other.py", "runserver", "80"], False),
        (["git", "manage.py", "runserver", "80"], False),
        (["manage.py", "runserver", "80"], False),
        (["runserver", "80"], False),
        ([], False),
        ("manage.py runserver 80", False),
        ([sys.executable, 5], False),
    ],
)
def test_a_program_that_is_started_again_is_known_by_its_command_line(monkeypatch, words, is_it):
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", "80"])
    assert children._is_this_program(words) is is_it


def test_a_module_that_is_started_again_is_known_by_its_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/lib/flask/__main__.py", "run", "--debug"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "flask", "run", "--debug"])
    assert children._is_this_program([sys.executable, "-m", "flask", "run", "--debug"])


@pytest.mark.parametrize(
    ("args", "more", "numbers"),
    [
        ((["x"],), {}, []),
        ((["x"],), {"pass_fds": (7, 8)}, [7, 8]),
        ((["x"],), {"stdin": 5}, [5]),
        ((["x"],), {"stdin": sys.__stderr__}, [2]),
        ((["x"], -1, None, 5), {}, [5]),
        ((["x"],), {"stdin": -1, "stdout": None}, []),
        ((["x"],), {"close_fds": False}, []),
        ((["x"],), {"pass_fds": (object(),)}, [-1]),
    ],
)
def test_what_a_process_would_inherit(args, more, numbers):
    assert list(children._inherited(args, more)) == numbers


class Refused(Exception):
    """As the program ends."""


def refuse(text: str) -> NoReturn:
    raise Refused(text)


@pytest.mark.parametrize(
    ("sent", "is_refused"), [([5], True), ([3, 5], True), ([3], False), ([], False)], ids=str
)
def test_a_listener_is_not_sent_to_another_process(monkeypatch, sent, is_refused):
    monkeypatch.setattr(children, "is_installed", lambda: True)
    monkeypatch.setattr(children, "_is_listener", lambda fd: fd == 5)
    sends = [
        lambda: children._sending(refuse, lambda sock, fds: fds)(None, sent),
        lambda: children._sending(refuse, lambda sock, buffers, fds: fds, first=2)(None, [b"x"], sent),
        lambda: children._sending(refuse, lambda sock, buffers, fds: fds, first=2)(None, [b"x"], fds=sent),
    ]
    for send in sends:
        if is_refused:
            with pytest.raises(Refused, match="starts processes of its own to listen in"):
                send()
        else:
            assert send() == sent


@pytest.mark.parametrize("number", [5, 6])
def test_a_process_is_not_started_with_a_listener_that_it_would_inherit(monkeypatch, number):
    monkeypatch.setattr(children, "is_installed", lambda: True)
    monkeypatch.setattr(children, "_is_listener", lambda fd: True)
    monkeypatch.setattr(registry, "numbers", lambda: [5, 6])
    monkeypatch.setattr(os, "get_inheritable", lambda fd: fd == number == 5)
    spawn = children._spawning(refuse, lambda path, argv, env: path)
    if number == 5:
        with pytest.raises(Refused):
            spawn("python", [], {})
    else:
        assert spawn("python", [], {}) == "python"
