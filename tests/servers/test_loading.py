"""MODULE:ATTRIBUTE: what is found, and the error if it is not."""

import sys

import pytest

from everycore.servers.loading import CannotBootError, load_app, load_env_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write modules below a folder. What they add to sys.modules and sys.path is removed again."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**modules: str):
        for name, source in modules.items():
            path = tmp_path / (name.replace("__", "/", 1) + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return str(tmp_path)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def why_not(name: str, folder: str, *, factory: bool = False) -> str:
    with pytest.raises(CannotBootError) as caught:
        load_app(name, folder, factory=factory)
    assert caught.value.report.status == 3
    return caught.value.report.text


def test_finds_the_attribute(folder):
    path = folder(shop="def app(): return 1")
    assert load_app("shop:app", path, factory=False)() == 1
    assert sys.path[0] == path


def test_finds_a_dotted_attribute_in_a_package(folder):
    path = folder(shop__web="class api:\n    app = staticmethod(lambda: 2)")
    assert load_app("shop.web:api.app", path, factory=False)() == 2


def test_calls_the_factory(folder):
    path = folder(shop="def make(): return lambda: 3")
    assert load_app("shop:make", path, factory=True)() == 3


def test_calls_it_as_it_is_typed(folder):
    path = folder(shop="def make(region, *, tax=0): return lambda: (region, tax)")
    assert load_app("shop:make('eu', tax=19)", path, factory=False)() == ("eu", 19)


# One sentence: the user typed something that is not there


def test_unknown_module(folder):
    path = folder()
    assert why_not("nosuch:app", path) == f"there is no module 'nosuch' in {path} or on sys.path"


def test_unknown_module_in_a_package(folder):
    assert "no module 'shop.nosuch'" in why_not("shop.nosuch:app", folder(shop____init__=""))


def test_unknown_attribute_suggests_a_near_one(folder):
    path = folder(shop="application = print")
    assert why_not("shop:aplication", path) == (
        "shop has no attribute 'aplication'; did you mean 'application'?"
    )
    assert why_not("shop:zzz", path) == "shop has no attribute 'zzz'"
    assert why_not("shop:application.x", path) == "shop.application has no attribute 'x'"


def test_attribute_not_callable(folder):
    assert why_not("shop:app", folder(shop="app = 7")) == "shop:app is not callable: its type is int"


def test_factory_not_callable(folder):
    assert "is not a factory" in why_not("shop:app", folder(shop="app = 7"), factory=True)


def test_factory_is_a_coroutine_function(folder):
    assert "coroutine function" in why_not("shop:app", folder(shop="async def app(): ..."), factory=True)


def test_product_of_the_factory_not_callable(folder):
    assert why_not("shop:make", folder(shop="def make(): ..."), factory=True) == (
        "shop:make is not callable: its type is NoneType"
    )


# A traceback: something is wrong inside the application


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("from json import nosuch", "ImportError: cannot import name 'nosuch'"),
        ("def f():\n    1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("import shop.x", "ModuleNotFoundError: No module named 'shop.x'; 'shop' is not a package"),
    ],
)
def test_error_in_the_module(folder, source, last):
    text = why_not("shop:app", folder(shop=source))
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert text.splitlines()[1].endswith('shop.py", line 1, in <module>') or "line 3, in <module>" in text
    assert text.splitlines()[-1].startswith(last)
    assert "importlib" not in text
    assert "everycore" not in text


def test_syntax_error_shows_the_place(folder):
    text = why_not("shop:app", folder(shop="def app(:\n  pass"))
    assert 'shop.py", line 1' in text
    assert "SyntaxError" in text
    assert "importlib" not in text


def test_error_in_the_factory(folder):
    text = why_not(
        "shop:make", folder(shop="def make():\n    raise RuntimeError('no database')"), factory=True
    )
    assert text.splitlines()[-1] == "RuntimeError: no database"
    assert "loading.py" not in text


def test_arguments_that_the_factory_does_not_take(folder):
    text = why_not("shop:make(1)", folder(shop="def make(): ..."))
    assert text == "TypeError: make() takes 0 positional arguments but 1 was given"


def test_cause_is_shown(folder):
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('bad') from e"
    text = why_not("shop:app", folder(shop=source))
    assert "division by zero" in text
    assert text.endswith("ValueError: bad")


@pytest.mark.parametrize(
    ("content", "why"), [(b"A=\0", "embedded null byte"), (b"A=\xff", "it is not utf-8")]
)
def test_a_malformed_env_file(content, why, tmp_path):
    (tmp_path / "x.env").write_bytes(content)
    with pytest.raises(CannotBootError) as caught:
        load_env_file(str(tmp_path / "x.env"))
    assert caught.value.report.text == f"cannot read the --env-file {tmp_path}/x.env: {why}"
