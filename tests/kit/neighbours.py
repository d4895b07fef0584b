"""Programs beside a service, such as proxies and supervisors, with the files of examples/deploy.

The files name ports, folders and users of a server. `adapted` replaces these by those of a test.
"""

import http.client
import os
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tests.kit import Program, scaled
from tests.kit.folders import EXAMPLES
from tests.kit.log_lines import wait_until

DEPLOY = EXAMPLES / "deploy"
#: The command in the files, and in a test.
INSTALLED = "/srv/shop/current/.venv/bin/everycore"
EVERYCORE = f"{sys.executable} -P -m everycore"


def found(program: str) -> str:
    """The path of a program. Skips the test if the program is missing."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed (make deps)")
    return path


def adapted(name: str, replacements: Mapping[str, str]) -> str:
    """The file `name` of examples/deploy, adapted. Every text to be replaced must occur in it."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


def wait_listening(program: Program, port: int) -> None:
    """Wait until a process that `program` has started serves `port` of this machine."""

    def is_there() -> bool:
        assert program.is_running, program.report()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(is_there, f"a listener on {port}")


def get(port: int, path: str = "/", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of one request, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scaled(30))
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


#: Seconds until a customer that was not served asks again. Without this pause, two seconds of status 502 took
#: 4 096 connections of the proxy, and the machine had no room for more.
ASKS_AGAIN = 0.02


class Customers:
    """Clients in threads that ask until the block is left; each keeps its connection.

    A customer that was served asks again at once. `answers` counts by status, or by the name of the error.
    """

    def __init__(self, port: int, count: int = 4, path: str = "/") -> None:
        self._port = port
        self._path = path
        self.answers: Counter[Any] = Counter()
        self._news = threading.Condition()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def answered(self, more: int) -> None:
        """Wait until `more` further answers, or errors, have come."""
        with self._news:
            wanted = self.answers.total() + more
            assert self._news.wait_for(lambda: self.answers.total() >= wanted, scaled(30)), self.answers

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=scaled(30))
        while not self._over.is_set():
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                response.read()
                answer: Any = response.status
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                answer = type(error).__name__
            with self._news:
                self.answers[answer] += 1
                self._news.notify_all()
            if answer != 200:
                self._over.wait(ASKS_AGAIN)
        connection.close()


def write(folder: Path, name: str, text: str) -> str:
    """Write a file of the test's own. Returns its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
