"""The job that the primary of `everycore serve` gives its workers, and their report if they cannot start.

This module defines the two messages and their encodings. Invariant: the primary never imports the
application. Only a worker's report tells whether it can be loaded.
"""

from __future__ import annotations

import ast
import contextlib
from typing import Any, Final, Literal

import msgspec

from everycore.entry import LoopKind
from everycore.errors import ConfigurationError
from everycore.settings import is_dotted

#: Exit statuses of the command line, and of a worker that could not start.
STATUS_STOPPED: Final = 0
STATUS_FAILED: Final = 1
STATUS_USAGE: Final = 2
STATUS_NO_BOOT: Final = 3

#: The variable with the secret part of `Job.engine`, as JSON: any user can read a command line.
SECRETS: Final = "_EVERYCORE_SECRETS"

#: The key that marks a worker's message as a report.
_BOOT_FAILED: Final = "everycore.boot_failed"


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The application, and how to serve it. `binds` are in the form of `--bind`.

    engine_name: the server that handles HTTP.
    engine: arguments of the engine's own configuration, by their names in uvicorn's `Config` if it has them.
    The secret ones are in the variable SECRETS instead.
    """

    app: str
    binds: list[str]
    app_dir: str = "."
    factory: bool = False
    interface: Literal["auto", "asgi", "wsgi", "asgi2", "asgi3"] = "auto"
    loop: LoopKind = "auto"
    grace: float = 30.0
    shutdown_timeout: float = 10.0
    spread: float | None = None
    log_level: str = "info"
    log_file: str | None = None
    log_format: str = "text"
    access_log: bool = False
    access_logfile: str | None = None
    access_logformat: str | None = None
    log_config: str | None = None
    backlog: int = 2048
    socket_mode: int | None = None
    lifespan: Literal["auto", "on", "off"] = "auto"
    threads: int = 10
    env_file: str | None = None
    engine_name: Literal["uvicorn", "hypercorn"] = "uvicorn"
    engine: dict[str, Any] = {}

    @property
    def scheme(self) -> str:
        """The scheme of the service's URLs."""
        return "https" if self.engine.get("ssl_certfile") else "http"

    def text(self) -> str:
        """The job as an argument of a command line, in ASCII.

        A path that is not UTF-8 has surrogates (os.fsdecode), which msgspec cannot encode.
        """
        with contextlib.suppress(UnicodeEncodeError):
            text = msgspec.json.encode(self).decode()
            if text.isascii():
                return text
        import json  # late: msgspec encodes most jobs

        return json.dumps(msgspec.to_builtins(self), separators=(",", ":"))


def with_secrets(job: Job, text: str | None) -> Job:
    """The job, completed by the content of the variable SECRETS."""
    if text is None:
        return job
    import json  # late: few jobs have secrets

    return msgspec.structs.replace(job, engine=job.engine | json.loads(text))


def read_job(text: str) -> Job:
    """Read the job from a worker's command line."""
    if "\\u" not in text:
        return msgspec.json.decode(text, type=Job)
    import json  # late, as above

    return msgspec.convert(json.loads(text), type=Job)


class BootReport(msgspec.Struct, frozen=True):
    """Why a worker could not start, in a text for the user, and the exit status that results.

    is_final: the error holds for every worker, even if workers have been ready before.
    """

    text: str
    status: int
    is_final: bool = False

    def message(self) -> dict[str, Any]:
        """The report as a message to the primary. Surrogates (of a path that is not UTF-8) are escaped."""
        text = self.text.encode("utf-8", "backslashreplace").decode()
        return {_BOOT_FAILED: [text, self.status, self.is_final]}


def read_report(message: object) -> BootReport | None:
    """The report in a worker's message; None if the message is the application's own."""
    report = message.get(_BOOT_FAILED) if isinstance(message, dict) else None
    match report:
        case [str(text), int(status), bool(is_final)]:
            return BootReport(text, status, is_final)
    return None


class AppName(msgspec.Struct, frozen=True):
    """MODULE:ATTRIBUTE, parsed. `arguments`: those of a factory call, as in `shop:create_app("eu")`."""

    module: str
    attribute: str
    arguments: tuple[list[Any], dict[str, Any]] | None = None


def parse_app(text: str) -> AppName | None:
    """Parse MODULE:ATTRIBUTE or MODULE:ATTRIBUTE(LITERALS). Returns None if `text` has neither form."""
    module, _, attribute = text.partition(":")
    arguments = None
    if attribute.endswith(")"):
        attribute, _, inside = attribute.partition("(")
        arguments = _literals(inside.removesuffix(")"))
        if arguments is None:
            return None
    if is_dotted(module) and is_dotted(attribute) and not module.endswith(".py"):
        return AppName(module, attribute, arguments)
    return None


def _literals(text: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a call, if all of them are literals; else None."""
    if not text.strip():
        return [], {}
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        named = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
        if len(named) < len(call.keywords):
            return None
        return [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def check_app(text: str, source: str = "argument", *, factory: bool = False) -> str:
    """Return `text` if it has the form MODULE:ATTRIBUTE. A worker finds out whether that exists."""
    name = parse_app(text)
    if name is not None:
        if factory and name.arguments is not None:
            problem = f"contradicts {text!r}, which is already a call; leave out one of the two"
            raise ConfigurationError("--factory", problem)
        return text
    module, _, attribute = text.partition(":")
    problem = f"must be MODULE:ATTRIBUTE, as in main:app, not {text!r}"
    if attribute.endswith(")"):
        problem += "; the arguments of a call are literals: strings, numbers, True, None, lists and so on"
    if module.endswith(".py") or "/" in module:
        path = module.removeprefix("./").removesuffix(".py").replace("/", ".").strip(".")
        if is_dotted(path):
            problem += f"; name the module, not its file: {path}:{attribute or 'app'}"
    raise ConfigurationError("APP", problem, source=source)
