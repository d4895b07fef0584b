"""How a record becomes a line of the log: as text for people, or as JSON for programs.

Both have the time with its zone, and who says it. Invariant: a record in JSON is one line of ASCII, whatever
its message and its traceback hold, and a field that is documented has one meaning and one type.
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
    """Whose lines these are.

    kind: "primary", "worker", "observer", or "alone" for a process without a cluster.
    """

    kind: str
    worker: int | None = None
    slot: int | None = None
    generation: int | None = None

    def __str__(self) -> str:
        """As a line of text names it."""
        if self.kind == "worker":
            return f"worker {self.worker}"
        return "everycore" if self.kind == "alone" else self.kind

    def fields(self) -> dict[str, Any]:
        """As a record in JSON names it."""
        numbers = {"worker": self.worker, "slot": self.slot, "generation": self.generation}
        return {"process": self.kind} | {name: value for name, value in numbers.items() if value is not None}


PRIMARY: Final = Speaker("primary")


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> tuple[str, str]:
    """Date and zone of a second, for all lines of it."""
    local = time.localtime(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S", local), time.strftime("%z", local)


class TextFormatter(logging.Formatter):
    """`2026-11-27 19:39:07,123 +0100 [worker 3] INFO ...`; a traceback has lines of its own."""

    def __init__(self, speaker: Speaker, access_format: str | None = None) -> None:
        super().__init__(f"%(asctime)s [{speaker}] %(levelname)s %(message)s")
        self._access = None if access_format is None else AccessFormatter(access_format, speaker.worker)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """As that of `logging`, with the zone."""
        date, zone = _second(int(record.created))
        return f"{date},{int(record.msecs):03d} {zone}"

    def format(self, record: logging.LogRecord) -> str:
        """One line; behind that of a request its duration and its id."""
        if self._access is not None and record.name == REQUESTS:
            return self._access.format(record)
        line = super().format(record)
        answered = answered_of(record)
        if answered is None:
            return line
        end = "" if answered.is_complete else " incomplete"
        return f"{line} {answered.milliseconds:.1f}ms {answered.request_id}{end}"


class JsonFormatter(logging.Formatter):
    """A JSON object a record. `access_format`: of the messages about requests."""

    def __init__(self, speaker: Speaker, access_format: str | None = None) -> None:
        super().__init__()
        self._speaker = speaker.fields()
        self._access = None if access_format is None else AccessFormatter(access_format, speaker.worker)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """As ISO 8601 has it."""
        date, zone = _second(int(record.created))
        return f"{date[:10]}T{date[11:]}.{int(record.msecs):03d}{zone[:3]}:{zone[3:]}"

    def format(self, record: logging.LogRecord) -> str:
        """One line, which is a JSON object."""
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
    """The fields as JSON, in ASCII: a stream of another encoding than UTF-8 takes it too."""
    try:
        text = msgspec.json.encode(fields)
        if text.isascii():
            return text.decode("ascii")
    except (UnicodeEncodeError, TypeError):  # what is no text (a path that is not UTF-8), nor a JSON value
        pass
    import json  # late: msgspec does it for most

    return json.dumps(fields, separators=(",", ":"), default=str)


def formatter(kind: str, speaker: Speaker, access_format: str | None = None) -> logging.Formatter:
    """One of `TEXT` or `JSON`. `access_format`: how requests are told, as `--access-logformat`."""
    make = JsonFormatter if kind == JSON else TextFormatter
    return make(speaker, access_format)
