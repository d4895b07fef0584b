"""What the primary tells a worker of `serve`, and what comes back."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.errors import ConfigurationError
from everycore.ops.job import BootReport, Job, check_app, read_job, read_report


def test_job_travels_on_the_command_line():
    job = Job(app="a:b", binds=["[::1]:80", "unix:/tmp/ü"], app_dir="/srv/it's here", grace=2.5)
    command = job.command(["-X", "dev"])
    assert command[:3] == [sys.executable, "-X", "dev"]
    assert read_job(command[-1]) == job


def test_report_travels_as_a_message():
    report = BootReport("no such module", 3)
    assert read_report(report.message()) == report


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_messages_are_no_reports(message):
    assert read_report(message) is None
    assert read_report({"everycore.boot_failed": message}) is None or isinstance(message, list)


@pytest.mark.parametrize("text", ["main:app", "shop.web:app", "main:api.app", "_a:b"])
def test_app(text):
    assert check_app(text) == text


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
        ("main:create_app()", "main:create_app with --factory"),
    ],
)
def test_not_an_app(text, hint):
    with pytest.raises(ConfigurationError, match="APP") as caught:
        check_app(text)
    assert hint in str(caught.value)
