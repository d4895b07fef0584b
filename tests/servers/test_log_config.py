"""What a file for logging.config does to uvicorn's loggers, and to others."""

import contextlib
import json
import logging

import pytest

from everycore.ops.job import Job
from everycore.servers.loading import CannotBootError
from everycore.servers.log_config import read_log_config

REQUEST = ("uvicorn.access", "GET /")


@contextlib.contextmanager
def loggers_kept():
    """dictConfig concerns every logger of the process."""
    open_handlers, logging._handlerList = logging._handlerList, []  # type: ignore[attr-defined] # it closes those
    known = [logging.getLogger(), *map(logging.getLogger, list(logging.Logger.manager.loggerDict))]
    before = [(one, one.handlers[:], one.level, one.propagate, one.disabled) for one in known]
    try:
        yield
    finally:
        logging._handlerList = open_handlers  # type: ignore[attr-defined]
        for name in list(logging.Logger.manager.loggerDict):
            for handler in logging.getLogger(name).handlers:
                handler.close()
        for one, handlers, level, propagate, disabled in before:
            for handler in set(one.handlers) - set(handlers):
                handler.close()
            one.handlers[:], one.propagate, one.disabled = handlers, propagate, disabled
            one.setLevel(level)


@pytest.fixture
def told(tmp_path):
    """Configure logging by a file. Returns the lines that are logged then."""

    def configure(config, log=(), **job):
        path = tmp_path / "log.json"
        path.write_text(json.dumps({"version": 1, **config(str(tmp_path / "lines"))}))
        read_log_config(Job(app="main:app", binds=[], app_dir=".", log_config=str(path), **job))
        for name, text in log:
            logging.getLogger(name).error(text)
        lines = tmp_path / "lines"
        return lines.read_text().splitlines() if lines.exists() else []

    with loggers_kept():
        ours = logging.NullHandler()
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "everycore"):
            logger = logging.getLogger(name)
            logger.handlers[:] = [ours]
            logger.propagate = False
        yield configure


def root_alone(path):
    return {
        "handlers": {"file": {"class": "logging.FileHandler", "filename": path, "delay": True}},
        "root": {"handlers": ["file"], "level": "INFO"},
        "loggers": {"uvicorn.access": {"level": "INFO"}, "uvicorn": {}},
    }


def test_the_roots_handlers_have_what_uvicorn_says(told):
    assert told(root_alone, [REQUEST, ("uvicorn.error", "oh")]) == ["GET /", "oh"]


def test_a_logger_that_is_made_later_is_not_silenced(told):
    assert told(root_alone, [("shop.of.tomorrow", "sold")]) == ["sold"]


def test_everycores_own_loggers_go_on(told):
    logging.getLogger("everycore.worker")
    told(root_alone)
    assert not logging.getLogger("everycore.worker").disabled
    assert not logging.getLogger("everycore").disabled


@pytest.mark.parametrize("own", [{"access_logfile": "x"}, {"access_logformat": "%(h)s"}])
def test_an_access_log_of_its_own_goes_on(told, own):
    before = logging.getLogger("uvicorn.access").handlers[:]

    def names_nothing(path):
        return {"handlers": {"file": {"class": "logging.FileHandler", "filename": path, "delay": True}}}

    assert told(names_nothing, [REQUEST], **own) == []
    requests = logging.getLogger("uvicorn.access")
    assert (requests.handlers, requests.disabled, requests.propagate) == (before, False, False)


def test_a_file_that_is_wrong_is_one_sentence(tmp_path):
    path = tmp_path / "log.json"
    path.write_text('{"version": 1, "handlers": {"x": {"class": "nosuch.Handler"}}}')
    with loggers_kept(), pytest.raises(CannotBootError) as raised:
        read_log_config(Job(app="main:app", binds=[], app_dir=".", log_config=str(path)))
    assert str(raised.value).startswith(f"uvicorn refuses --log-config {path}: ValueError: ")
