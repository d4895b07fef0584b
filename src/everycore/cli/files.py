"""Files that options name: whether they are there is known before anything starts, and before a reload."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

from everycore.cli.options import Values
from everycore.errors import ConfigurationError

_FILES: Final = ("env_file", "log_config", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs")


def check_files(values: Values, folder: str | None) -> None:
    """Raises ConfigurationError for a file that cannot be read. Relative paths begin at `folder`."""
    found = values.found
    for name in _FILES:
        if name in found and found[name].value is not None:
            path, source = found[name].value, found[name].source
            shown = "argument" if source.startswith("-") else source
            option = f"--{name.replace('_', '-')}"
            try:
                with open(os.path.join(folder or "", path), "rb"):
                    pass
            except OSError as error:
                problem = f"cannot read {path!r}: {(error.strerror or str(error)).lower()}"
                raise ConfigurationError(option, problem, source=shown) from None
    for name, module, package in (("env_file", "dotenv", "python-dotenv"), ("log_config", "yaml", "PyYAML")):
        path = found[name].value
        is_needed = path is not None and (name == "env_file" or path.endswith((".yaml", ".yml")))
        if is_needed and importlib.util.find_spec(module) is None:
            option = f"--{name.replace('_', '-')}"
            raise ConfigurationError(option, f"needs {package}: pip install 'everycore[standard]'")
    if "ssl_keyfile" in found and found["ssl_keyfile"].value and not found["ssl_certfile"].value:
        raise ConfigurationError("--ssl-keyfile", "needs the certificate too: --ssl-certfile FILE")


def why_not_there(kind: str, path: str) -> str:
    """Why there is no "file" or "folder" at `path`, for a message."""
    try:
        os.stat(path)
    except PermissionError:
        return f"uid {os.geteuid()} has no permission to reach the {kind} {path!r}"
    except OSError:
        pass  # whatever it is, it is not there
    return f"there is no {kind} {path!r}"
