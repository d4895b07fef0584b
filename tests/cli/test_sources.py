"""Argument, variables, default; and errors that name where the value came from."""

import pytest

from everycore.cli.sources import (
    Resolved,
    parse_choice,
    parse_seconds,
    parse_text,
    parse_workers,
    resolve,
    variable,
)
from everycore.errors import ConfigurationError

EVERYWHERE = {"EVERYCORE_WORKERS": "2", "WEB_CONCURRENCY": "3"}


def workers(argument: str | None, environ: dict[str, str]) -> Resolved:
    return resolve("--workers", argument, parse_workers, "auto", environ=environ, also=("WEB_CONCURRENCY",))


def test_argument_wins():
    assert workers("1", EVERYWHERE) == Resolved(1, "--workers")


def test_our_variable_comes_before_others():
    assert workers(None, EVERYWHERE) == Resolved(2, "EVERYCORE_WORKERS")
    assert workers(None, {"WEB_CONCURRENCY": "3"}) == Resolved(3, "WEB_CONCURRENCY")


def test_default_comes_last():
    assert workers(None, {}) == Resolved("auto", "default")


def test_empty_variable_is_not_set():
    assert workers(None, {"EVERYCORE_WORKERS": "", "WEB_CONCURRENCY": "3"}).value == 3


def test_variable_of_an_option():
    assert variable("--boot-timeout") == "EVERYCORE_BOOT_TIMEOUT"


@pytest.mark.parametrize(
    ("argument", "environ", "text"),
    [
        ("0", EVERYWHERE, "--workers: must be 'auto' or a whole number of at least 1, not '0'"),
        (None, {"EVERYCORE_WORKERS": "x"}, "--workers (from EVERYCORE_WORKERS): must be"),
        (None, {"WEB_CONCURRENCY": "0"}, "--workers (from WEB_CONCURRENCY): must be"),
    ],
)
def test_error_names_the_source(argument, environ, text):
    with pytest.raises(ConfigurationError) as caught:
        workers(argument, environ)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "", " 4", "1_0", "1.0", "٣", "AUTO"])
def test_bad_workers(text):
    with pytest.raises(ConfigurationError):
        parse_workers(text, "--workers", "argument")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "x", "", "-0.1"])
def test_bad_seconds(text):
    with pytest.raises(ConfigurationError, match="--grace"):
        parse_seconds(0.0)(text, "--grace", "argument")


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("2.5", 2.5), ("1e2", 100.0)])
def test_seconds(text, value):
    assert parse_seconds(0.0)(text, "--grace", "argument") == value


def test_least_seconds():
    with pytest.raises(ConfigurationError, match=r"at least 0\.1 seconds"):
        parse_seconds(0.1)("0", "--boot-timeout", "argument")


def test_choice_lists_the_known():
    parse = parse_choice(("red", "green"))
    assert parse("red", "--colour", "argument") == "red"
    with pytest.raises(ConfigurationError, match="must be one of red, green, not 'blue'"):
        parse("blue", "--colour", "argument")


def test_text_stays_on_its_line():
    assert parse_text("shop", "--name", "argument") == "shop"
    with pytest.raises(ConfigurationError):
        parse_text("shop\nforged log line", "--name", "argument")
