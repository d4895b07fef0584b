"""Files that options name: they are checked before anything starts, and before a reload."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from typing import Final

from everycore.cli.options import Values
from everycore.config.control import OFF
from everycore.errors import ConfigurationError
from everycore.ops.logs import STDERR, reason
from everycore.ops.pidfile import check_pid_file
from everycore.system.plain_files import open_plain, reason_of, why_not_written

#: Settings that name a file which each worker reads at its start.
FILES: Final = ("env_file", "log_config", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs")
_LOG_FILES: Final = ("log_file", "access_logfile")
#: A line of --env-file that sets a variable which everycore itself reads.
_VARIABLE: Final = re.compile(
    rb"^[ \t]*(?:export[ \t]+)?(EVERYCORE_[A-Z_]+|WEB_CONCURRENCY)[ \t]*=", re.MULTILINE
)
_MOST_ENVIRONMENT: Final = 1 << 20


def check_files(values: Values, folder: str | None) -> None:
    """Raise ConfigurationError for a file that cannot be read. Relative paths begin at `folder`."""
    found = values.found
    for name in FILES:
        if name in found and found[name].value is not None:
            path = found[name].value
            try:
                with open_plain(os.path.join(folder or "", path)):
                    pass
            except OSError as error:
                problem = f"cannot read {path!r}: {reason_of(error)}"
                raise ConfigurationError(_option(name), problem) from None
    check_logs(values, folder)
    for name, module, package in (("env_file", "dotenv", "python-dotenv"), ("log_config", "yaml", "PyYAML")):
        path = found[name].value
        is_needed = path is not None and (name == "env_file" or path.endswith((".yaml", ".yml")))
        if is_needed and importlib.util.find_spec(module) is None:
            raise ConfigurationError(_option(name), f"needs {package}: pip install 'everycore[standard]'")
    if "ssl_certfile" in found and not found["ssl_certfile"].value:
        for name, one in found.items():
            if name.startswith("ssl_") and one.is_explicit:  # else the service would run without TLS
                raise ConfigurationError(_option(name), "needs the certificate too: --ssl-certfile FILE")


def unread_variables(values: Values, folder: str | None) -> list[str]:
    """A sentence for each of everycore's own variables in `--env-file`, which only the application reads."""
    path = values.found["env_file"].value
    if path is None:
        return []
    try:
        with open_plain(os.path.join(folder or "", path)) as file:
            names = dict.fromkeys(_VARIABLE.findall(file.read(_MOST_ENVIRONMENT)))
    except OSError:  # the workers report it
        return []
    return [
        f"{name.decode()} in {path!r} reaches the application only, because the workers read --env-file;"
        " set the variable itself, or use an option"
        for name in names
    ]


def check_logs(values: Values, folder: str | None) -> None:
    """Raise ConfigurationError for a log file that cannot be written."""
    for name in _LOG_FILES:
        if name in values.found and values.found[name].value not in (None, STDERR):
            _check_log(_option(name), values.found[name].value, folder)


def check_pid(values: Values, folder: str | None) -> None:
    """Raise ConfigurationError if the pid file cannot be written."""
    path = values.found["pid"].value
    if path is not None:
        check_pid_file(os.path.join(folder or "", path))


def check_control(values: Values, folder: str | None) -> None:
    """Raise ConfigurationError if the control socket cannot be made."""
    path = values.found["control"].value
    if path in (None, OFF):
        return
    whole = os.path.join(folder or "", path)
    parent = os.path.dirname(whole) or "."
    if not os.path.isdir(parent):
        problem: str | None = f"there is no folder {parent!r}"
    elif os.path.lexists(whole) and not stat.S_ISSOCK(os.lstat(whole).st_mode):
        problem = "a file of that name exists, and is not a socket"
    else:
        problem = why_not_written(parent)
    if problem is not None:
        raise ConfigurationError("--control", f"cannot make {path!r}: {problem}")


def log_file(values: Values, folder: str | None) -> str | None:
    """The path of `--log-file`, absolute if `folder` is; None stands for stderr."""
    path = values.found["log_file"].value
    return None if path in (None, STDERR) else os.path.join(folder or "", path)


def _check_log(option: str, path: str, folder: str | None) -> None:
    whole = os.path.join(folder or "", path)
    parent = os.path.dirname(os.path.realpath(whole) if os.path.islink(whole) else whole) or "."
    if os.path.exists(whole):
        problem = _why_not_written(whole)
    elif not os.path.isdir(parent):
        problem = f"there is no folder {parent!r}"
    else:
        problem = why_not_written(parent)
    if problem is not None:
        raise ConfigurationError(option, f"cannot write {path!r}: {problem}")


def _why_not_written(path: str) -> str | None:
    """Why an existing file cannot be written; None if it can."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except PermissionError as error:
        return why_not_written(path) or reason_of(error)
    except OSError as error:
        return reason(error)
    return None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def why_not_there(kind: str, path: str) -> str:
    """Why there is no file or folder (`kind`) at `path`, for a message."""
    try:
        os.stat(path)
    except PermissionError:
        return f"uid {os.geteuid()} has no permission to reach the {kind} {path!r}"
    except OSError:
        pass  # any other error means that it is not there
    return f"there is no {kind} {path!r}"
