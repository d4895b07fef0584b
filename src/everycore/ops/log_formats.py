"""How a record becomes a line of the log: text for people, or JSON for programs.

Both formats have the time with its zone, and the process that logs. Invariant: a record in JSON is one line
of ASCII, whatever its message and its traceback hold. Each documented field has one meaning and one type.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import Any, Final

import msgspec

from everycore.ops.access_log import REQUESTS, AccessFormatter, answered_of, fields_of, request_id

TEXT: Final = "text"
JSON: Final = "json"


class Speaker(msgspec.Struct, frozen=True):
    """The process that logs.

    kind: "primary", "worker", "observer", or "alone" for a process without a cluster.
    """

    kind: str
    worker: int | None = None
    slot: int | None = None
    generation: int | None = None

    def __str__(self) -> str:
        """The name in a line of text."""
        if self.kind == "worker":
            return f"worker {self.worker}"
        return "everycore" if self.kind == "alone" else self.kind

    def fields(self) -> dict[str, Any]:
        """The fields of a JSON record that name the process."""
        numbers = {"worker": self.worker, "slot": self.slot, "generation": self.generation}
        return {"process": self.kind} | {name: value for name, value in numbers.items() if value is not None}


PRIMARY: Final = Speaker("primary")


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> tuple[str, str]:
    """The date and the zone of a second, cached for all lines of that second."""
    local = time.localtime(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S", local), time.strftime("%z", local)


class TextFormatter(logging.Formatter):
    """`2026-11-27 19:39:07,123 +0100 [worker 3] INFO ...`. A traceback follows on lines of its own."""

    def __init__(self, speaker: Speaker, access_format: str | None = None) -> None:
        super().__init__(f"%(asctime)s [{speaker}] %(levelname)s %(message)s")
        self._access = None if access_format is None else AccessFormatter(access_format, speaker.worker)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """As `logging.Formatter.formatTime`, with the zone."""
        date, zone = _second(int(record.created))
        return f"{date},{int(record.msecs):03d} {zone}"

    def format(self, record: logging.LogRecord) -> str:
        """Format one line. The line of a request ends with its duration and its id."""
        if self._access is not None and record.name == REQUESTS:
            return self._access.format(record)
        line = super().format(record)
        answered = answered_of(record)
        if answered is None:
            return line
        end = "" if answered.is_complete else " incomplete"
        return f"{line} {answered.milliseconds:.1f}ms {answered.request_id}{end}"


class JsonFormatter(logging.Formatter):
    """One JSON object per record. `access_format`: the format of the messages about requests."""

    def __init__(self, speaker: Speaker, access_format: str | None = None) -> None:
        super().__init__()
        self._speaker = speaker.fields()
        self._access = None if access_format is None else AccessFormatter(access_format, speaker.worker)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time in ISO 8601."""
        date, zone = _second(int(record.created))
        return f"{date[:10]}T{date[11:]}.{int(record.msecs):03d}{zone[:3]}:{zone[3:]}"

    def format(self, record: logging.LogRecord) -> str:
        """Format one line, a JSON object."""
        is_told_by_atoms = self._access is not None and record.name == REQUESTS
        message = self._access.format(record) if is_told_by_atoms and self._access else record.getMessage()
        fields: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._speaker,
            "pid": os.getpid(),
            "message": message.rstrip("\n"),
        }
        fields |= fields_of(record)
        if "request_id" not in fields and (current := request_id.get()) is not None:
            fields["request_id"] = current
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception_type"] = record.exc_info[0].__qualname__
            fields["exception"] = record.exc_text or self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return _ascii(fields)


def _ascii(fields: dict[str, Any]) -> str:
    """Encode the fields as JSON in ASCII, which a stream of any encoding takes."""
    try:
        text = msgspec.json.encode(fields)
        if text.isascii():
            return text.decode("ascii")
    except (UnicodeEncodeError, TypeError):  # a surrogate (a path that is not UTF-8), or not a JSON value
        pass
    import json  # late: msgspec encodes most records

    return json.dumps(fields, separators=(",", ":"), default=str)


def formatter(kind: str, speaker: Speaker, access_format: str | None = None) -> logging.Formatter:
    """The formatter for `TEXT` or `JSON`.

    `access_format`: the format of requests, as in `--access-logformat`.
    """
    make = JsonFormatter if kind == JSON else TextFormatter
    return make(speaker, access_format)
