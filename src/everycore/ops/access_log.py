"""What is known of a request that was answered, and how the access log records it.

The records go to the logger on which uvicorn logs requests, with uvicorn's five arguments, so that a
formatter made for uvicorn (`--log-config`) understands them. Invariant: nothing that a client sends can end a
line or close a quotation.
"""

from __future__ import annotations

import contextvars
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from everycore.config.access_format import header_of, on_one_line

#: The name of the logger for requests.
REQUESTS: Final = "uvicorn.access"
_logger: Final = logging.getLogger(REQUESTS)
#: uvicorn's format of a request.
MESSAGE: Final = '%s - "%s %s HTTP/%s" %d'
#: gunicorn's format of a request's time.
_TIME: Final = "[%d/%b/%Y:%H:%M:%S %z]"
#: The attribute of a record that holds the `Answered`.
_ATTRIBUTE: Final = "answered"

#: The id of the request that is being served, if requests are logged.
request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("everycore_request_id", default=None)

Headers = Iterable[tuple[Any, Any]]


class Answered(msgspec.Struct, kw_only=True, frozen=True):
    """A request whose answer has ended.

    target: path and query, quoted. status: 499 if the client left before the answer began, as in nginx.
    seconds: from the moment the application got the request to the end of the answer. is_complete: whether
    the whole answer was sent.
    """

    client: str
    method: str
    target: str
    version: str
    status: int
    seconds: float
    size: int
    request_id: str
    is_complete: bool = True
    is_websocket: bool = False
    request_headers: Headers = ()
    answer_headers: Headers = ()

    @property
    def milliseconds(self) -> float:
        """The duration of the request, in milliseconds."""
        return self.seconds * 1000

    def header(self, name: str, *, of_answer: bool = False) -> str | None:
        """The value of a header, as it was sent; None if there is none. `name` is in lower case."""
        wanted = name.encode("latin-1", "replace")
        headers = self.answer_headers if of_answer else self.request_headers
        found = (value for key, value in headers if bytes(key).lower() == wanted)
        value = next(found, None)
        return None if value is None else bytes(value).decode("latin-1")

    def fields(self) -> dict[str, Any]:
        """The fields of a JSON record."""
        fields = _common_fields(self.client, self.method, self.target, self.version, self.status)
        if self.is_websocket:
            fields["protocol"] = "WebSocket"
        fields |= {
            "duration_ms": round(self.milliseconds, 3),
            "bytes": self.size,
            "complete": self.is_complete,
            "request_id": self.request_id,
            "referer": self.header("referer"),
            "user_agent": self.header("user-agent"),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def log(self, worker: int | None) -> None:
        """Log the request. Other formatters find `request_id`, `duration_ms` and `worker` in the record."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        args = (self.client, self.method, self.target, self.version, self.status)
        extra = {
            _ATTRIBUTE: self,
            "request_id": self.request_id,
            "duration_ms": round(self.milliseconds, 3),
            "worker": worker,
        }
        # `info` would look for the line of code that called it, which takes time.
        record = _logger.makeRecord(REQUESTS, logging.INFO, __file__, 0, MESSAGE, args, None, extra=extra)
        _logger.handle(record)


def _common_fields(client: Any, method: Any, target: Any, version: Any, status: Any) -> dict[str, Any]:
    """The fields that an engine's own record has too."""
    path, _, query = str(target).partition("?")
    return {
        "client": client or None,
        "method": method,
        "path": path,
        "query": query,
        "protocol": f"HTTP/{version}",
        "status": status,
    }


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a JSON record that describe the request; none if the record is not about a request."""
    answered = answered_of(record)
    if answered is not None:
        return answered.fields()
    if record.name == REQUESTS and isinstance(record.args, tuple) and len(record.args) == 5:
        return {name: value for name, value in _common_fields(*record.args).items() if value is not None}
    return {}


def answered_of(record: logging.LogRecord) -> Answered | None:
    """The request that a record of everycore describes; None for any other record, the engine's included."""
    found = getattr(record, _ATTRIBUTE, None)
    return found if isinstance(found, Answered) else None


class ToldOnce(logging.Filter):
    """Drops the engine's own record of a request, which everycore logs when the answer has ended.

    A response of the engine itself (503 of `--limit-concurrency`) passes, because nothing else logs it. Its
    record gets the attributes of everycore's records for other formatters, with dashes as their values.
    """

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`."""
        if answered_of(record) is not None:
            return True
        vars(record).update(request_id="-", duration_ms="-", worker=self._worker)
        return request_id.get() is None


def tell_once(worker: int | None) -> None:
    """Install the filter: from now on each request is logged once."""
    if not any(isinstance(known, ToldOnce) for known in _logger.filters):
        _logger.addFilter(ToldOnce(worker))


class AccessFormatter(logging.Formatter):
    """Formats the record of a request, with gunicorn's atoms."""

    def __init__(self, text: str, worker: int | None = None) -> None:
        super().__init__()
        self._text = text
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Format one line. A record that is not about a request keeps its own message."""
        if not isinstance(record.args, tuple) or len(record.args) != 5:
            return record.getMessage()
        return self._text % _Atoms(record, record.args, self._worker)


class _Atoms:
    """The atoms of one record. Each is computed when the format asks for it; "-" means unknown."""

    def __init__(self, record: logging.LogRecord, args: tuple[Any, ...], worker: int | None) -> None:
        self.time = record.created
        self.client, self.method, self.target, self.version, self.status = args
        self.worker = worker
        self.answered = answered_of(record)

    def __getitem__(self, atom: str) -> object:
        header = header_of(atom)
        if header is None:
            return _ATOMS[atom](self)
        return self.header(header[0], of_answer=header[1] == "o")

    def header(self, name: str, *, of_answer: bool = False) -> str:
        found = None if self.answered is None else self.answered.header(name, of_answer=of_answer)
        return "-" if found is None else on_one_line(found)

    def seconds(self, times: int = 1) -> object:
        return "-" if self.answered is None else int(self.answered.seconds * times)


_ATOMS: Final[Mapping[str, Callable[[_Atoms], object]]] = {
    "h": lambda it: str(it.client).rpartition(":")[0] or it.client or "-",
    "l": lambda _: "-",
    "u": lambda _: "-",
    "t": lambda it: time.strftime(_TIME, time.localtime(it.time)),
    "r": lambda it: f"{it.method} {it.target} HTTP/{it.version}",
    "m": lambda it: it.method,
    "U": lambda it: str(it.target).partition("?")[0],
    "q": lambda it: str(it.target).partition("?")[2],
    "H": lambda it: f"HTTP/{it.version}",
    "s": lambda it: it.status,
    "B": lambda it: "-" if it.answered is None else it.answered.size,
    "b": lambda it: "-" if it.answered is None else it.answered.size or "-",
    "f": lambda it: it.header("referer"),
    "a": lambda it: it.header("user-agent"),
    "T": lambda it: it.seconds(),
    "L": lambda it: "-" if it.answered is None else f"{it.answered.seconds:.6f}",
    "M": lambda it: it.seconds(1000),
    "D": lambda it: it.seconds(1_000_000),
    "p": lambda _: f"<{os.getpid()}>",
    "worker": lambda it: "-" if it.worker is None else it.worker,
    "request_id": lambda it: "-" if it.answered is None else it.answered.request_id,
}
