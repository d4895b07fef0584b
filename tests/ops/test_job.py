"""What the primary tells a worker of `serve`, and what comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import values
from everycore.errors import ConfigurationError
from everycore.ops.job import BootReport, Job, check_app, parse_app, read_job, read_report, with_secrets


def test_job_travels_on_the_command_line():
    job = Job(app="a:b", binds=["[::1]:80", "unix:/tmp/ü"], app_dir="/srv/it's here", grace=2.5)
    assert read_job(job.text()) == job


def test_job_has_paths_that_are_not_utf8():
    job = Job(app="a:b", binds=["unix:/srv/caf\udce9/socket"], app_dir="/srv/caf\udce9")
    assert job.text().isascii()
    assert read_job(job.text()) == job


def test_secrets_join_the_options_of_the_engine():
    job = Job(app="a:b", binds=[], engine={"ssl_certfile": "x"})
    assert with_secrets(job, '{"ssl_keyfile_password": "hush"}').engine == {
        "ssl_certfile": "x",
        "ssl_keyfile_password": "hush",
    }
    assert with_secrets(job, None) is job


@pytest.mark.parametrize(("engine", "scheme"), [({}, "http"), ({"ssl_certfile": "x"}, "https")])
def test_scheme(engine, scheme):
    assert Job(app="a:b", binds=[], engine=engine).scheme == scheme


def test_report_travels_as_a_message():
    report = BootReport("no such module", 3)
    assert read_report(report.message()) == report


def test_report_may_name_a_path_that_is_not_utf8():
    """A traceback may: otherwise the message could not be sent, and the failure would stay unexplained."""
    message = BootReport('File "/srv/caf\udce9/main.py", line 1', 3).message()
    values.encode_json(message)
    report = read_report(message)
    assert report is not None
    assert report.text == 'File "/srv/caf\\udce9/main.py", line 1'


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_other_messages_are_not_taken_for_reports(message):
    assert read_report(message) is None
    assert read_report({"everycore.boot_failed": message}) is None or isinstance(message, list)


@pytest.mark.parametrize("text", ["main:app", "shop.web:app", "main:api.app", "_a:b", "main:make()"])
def test_app(text):
    assert check_app(text) == text


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("main:api.app", None),
        ("main:api.app()", ([], {})),
        ("main:api.app( )", ([], {})),
        ("main:api.app('eu', [1, -2.5])", (["eu", [1, -2.5]], {})),
        (
            "main:api.app(None, to='https://a:8/(b)', debug=False)",
            ([None], {"to": "https://a:8/(b)", "debug": False}),
        ),
    ],
)
def test_app_that_is_called(text, arguments):
    name = parse_app(text)
    assert name is not None
    assert (name.module, name.attribute, name.arguments) == ("main", "api.app", arguments)


def test_app_that_is_called_and_a_factory():
    with pytest.raises(ConfigurationError, match="--factory: contradicts 'main:make\\(\\)'"):
        check_app("main:make()", factory=True)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("main", "MODULE:ATTRIBUTE"),
        ("main:", "MODULE:ATTRIBUTE"),
        (":app", "MODULE:ATTRIBUTE"),
        ("", "MODULE:ATTRIBUTE"),
        ("main:app:x", "MODULE:ATTRIBUTE"),
        ("main app:x", "MODULE:ATTRIBUTE"),
        ("main.py:app", "main:app"),
        ("./main.py", "main:app"),
        ("shop/web.py:api", "shop.web:api"),
        ("main.py:make('eu')", "main:make('eu')"),
        ("main:make(region)", "literals"),
        ("main:make(**{'a': 1})", "literals"),
        ("main:make(*[1])", "literals"),
        ("main:make(1)(2)", "literals"),
        ("main:make(1))", "literals"),
        ("main:make(1", "MODULE:ATTRIBUTE"),
        ("main:()", "MODULE:ATTRIBUTE"),
        ("main:make(a=1, a=2)", "literals"),
    ],
)
def test_not_an_app(text, hint):
    with pytest.raises(ConfigurationError, match="APP") as caught:
        check_app(text)
    assert hint in str(caught.value)
