"""How workers are started, and the checks of single settings that every interface shares.

The module holds one frozen `Settings`, its merge rule, and validators whose errors name the setting and its
source. Invariant: a `Settings` that exists is valid.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import msgspec

from everycore.errors import ConfigurationError
from everycore.kernel import FIRST_OTHER

#: One of a worker's standard streams: the primary's own, an async stream, /dev/null, a descriptor, a file.
Stdio = Literal["inherit", "pipe", "null"] | int | os.PathLike[str] | Any

#: The values of `policy=`, `EVERYCORE_POLICY` and `--policy`.
POLICIES: Final = ("round_robin", "shared", "sticky")
#: The values of `trust_proxy_protocol` besides addresses and networks: all peers on unix sockets; all peers.
UNIX_PROXIES: Final = "unix"
EVERYBODY: Final = "*"
POLICY_VARIABLE: Final = "EVERYCORE_POLICY"
#: How long a healthy worker may show no progress while other processes have the processors, in seconds.
LEAST_STALL: Final = 0.5
#: The largest number that the kernel accepts as a descriptor.
_LARGEST_FD: Final = 2**31 - 1
#: -1 as an unsigned number, which stands for no user and no group.
_NOBODY: Final = 2**32 - 1
#: The values of `loop=` and `--loop`. "auto" is uvloop in a worker if it is installed.
LOOPS: Final = ("auto", "asyncio", "uvloop")
#: The greatest number of workers of a service. The board has a row for each, and more rows for the workers
#: that a reload starts beside them.
MOST_WORKERS: Final = 1000


class Settings(msgspec.Struct, frozen=True):
    """How a new worker is started. All fields are optional; see `Cluster.setup_primary`.

    exec: None runs this command line again; a path runs that Python script; a sequence is a whole argument
        vector.
    args: the script's arguments (with `exec=None`, they replace this program's own); None means this
        program's.
    exec_argv: interpreter flags (`-X`, `-W`, `-O`); None means this interpreter's.
    cwd, umask: as for `subprocess.Popen`; None means the primary's (cwd: that of the import of everycore).
    env: variables added to the primary's; a value of None removes one.
    stdio: "inherit", "pipe", "null", a descriptor, a file or a path (appended to), for all three streams; or
        a sequence of three of these. `silent` stands for stdout and stderr as "pipe".
    pass_fds: descriptors of the primary that the worker gets too, under the same numbers (as for
        `subprocess.Popen`).
    uid, gid, groups: the user and groups to switch to before the program runs, by name or number. A user that
        is not in the user database needs a gid. Another user has no capabilities, and gets none back.
    addresses: the addresses on which a worker may listen through the primary if its user is not the
        primary's: (numeric host, port), the path of a unix socket, or the number of a descriptor. Any other
        address fails with EACCES.
    serialization: "json" (None, bool, int, float, str, bytes, list, dict, tuple) or "pickle".
    policy: which worker gets the next connection; None means `EVERYCORE_POLICY`, else "round_robin".
    preload: "package.module", or "package.module:function", which is called too; one or several. A mold
        imports them once, and all workers are forked from it. None means that each worker is a fresh
        interpreter.
    preload_force: fork even if threads are alive in the mold after that.
    """

    exec: str | os.PathLike[str] | Sequence[str] | None = None
    args: Sequence[str] | None = None
    exec_argv: Sequence[str] | None = None
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    stdio: Stdio | Sequence[Stdio] = "inherit"
    silent: bool = False
    pass_fds: Sequence[int] = ()
    uid: int | str | None = None
    gid: int | str | None = None
    groups: Sequence[int | str] | None = None
    addresses: Sequence[tuple[str, int] | str | os.PathLike[str] | int] = ()
    umask: int | None = None
    serialization: Literal["json", "pickle"] = "json"
    policy: str | None = None
    preload: str | Sequence[str] | None = None
    preload_force: bool = False

    def __post_init__(self) -> None:
        check_strings("args", self.args)
        check_strings("exec_argv", self.exec_argv)
        if self.exec is None or isinstance(self.exec, (str, os.PathLike)):
            _check_path("exec", self.exec)
        else:
            check_strings("exec", self.exec)
            if not self.exec:
                raise ConfigurationError("exec", "an argument vector needs at least the program")
        _check_path("cwd", self.cwd)
        _check_who("uid", () if self.uid is None else (self.uid,))
        _check_who("gid", () if self.gid is None else (self.gid,))
        if self.groups is not None:
            _check_sequence("groups", self.groups, "a sequence of groups")
            _check_who("groups", self.groups)
        check_env("env", self.env)
        _check_descriptors(self.pass_fds)
        _check_addresses(self.addresses)
        if self.serialization not in ("json", "pickle"):
            raise ConfigurationError(
                "serialization", f"known are 'json' and 'pickle', not {self.serialization!r}"
            )
        _check_umask(self.umask)
        _check_stdio(self.stdio)
        for name, value in (("silent", self.silent), ("preload_force", self.preload_force)):
            if not isinstance(value, bool):
                raise ConfigurationError(name, f"must be True or False, not {value!r}")
        names_to_preload(self.preload)
        if self.policy is not None:
            check_policy(self.policy)

    def merged(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with `changes` applied. Raises TypeError for an unknown name, as any function."""
        for name in changes:
            if name not in self.__struct_fields__:
                msg = f"setup_primary() got an unexpected setting {name!r}"
                raise TypeError(msg)
        return msgspec.structs.replace(self, **changes)


class SettingsFields(TypedDict, total=False):
    """The fields of `Settings` as keywords, for type checkers."""

    exec: str | os.PathLike[str] | Sequence[str] | None
    args: Sequence[str] | None
    exec_argv: Sequence[str] | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str | None]
    stdio: Stdio | Sequence[Stdio]
    silent: bool
    pass_fds: Sequence[int]
    uid: int | str | None
    gid: int | str | None
    groups: Sequence[int | str] | None
    addresses: Sequence[tuple[str, int] | str | os.PathLike[str] | int]
    umask: int | None
    serialization: Literal["json", "pickle"]
    policy: str | None
    preload: str | Sequence[str] | None
    preload_force: bool


def names_to_preload(value: object, *, setting: str = "preload") -> tuple[str, ...]:
    """The names to import, in order. Raises ConfigurationError if one can't be a module's name."""
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else _check_sequence(setting, value, "a sequence of strings")
    for name in names:
        parts = name.split(":") if isinstance(name, str) else []
        if not 1 <= len(parts) <= 2 or not all(is_dotted(part) for part in parts):
            problem = f"must be MODULE or MODULE:FUNCTION, as in package.module:prepare, not {name!r}"
            raise ConfigurationError(setting, problem)
    return tuple(names)


def is_dotted(text: str) -> bool:
    """Whether `text` can be the name of a module, or of something in one."""
    return all(part.isidentifier() for part in text.split("."))


def _check_umask(value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise ConfigurationError("umask", f"must be a number from 0 to 0o777, not {value!r}")


def _check_stdio(value: object) -> None:
    if isinstance(value, (list, tuple)):
        if len(value) != 3:
            raise ConfigurationError("stdio", f"takes one value or three, not {len(value)}")
        for item in value:
            _check_stream(item)
    else:
        _check_stream(value)


def _check_stream(value: object) -> None:
    match value:
        case None | "inherit" | "pipe" | "null":
            return
        case bool():
            pass
        case int() if 0 <= value <= _LARGEST_FD:
            return
        case str() if os.sep in value:
            _check_path("stdio", value)
            return
        case os.PathLike():
            _check_path("stdio", value)
            return
        case _ if not isinstance(value, (int, str)) and hasattr(value, "fileno"):
            return
    raise ConfigurationError(
        "stdio", f"must be 'inherit', 'pipe', 'null', a descriptor, a file or a path, not {value!r}"
    )


def _check_sequence(name: str, value: object, what: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ConfigurationError(name, f"must be {what}, not {value!r}")
    return value


def check_strings(name: str, value: object) -> None:
    """Raise unless `value` is a sequence of strings, or None."""
    if value is None:
        return
    for item in _check_sequence(name, value, "a sequence of strings"):
        if not isinstance(item, str) or "\0" in item:
            raise ConfigurationError(name, f"every item must be a string without NUL, not {item!r}")


def _check_path(name: str, value: str | os.PathLike[str] | None) -> None:
    if value is None:
        return
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigurationError(name, f"must be a path, not {value!r}")
    if not (path := os.fsdecode(value)) or "\0" in path:
        raise ConfigurationError(name, f"must be a path, not empty and without NUL, not {path!r}")


def _check_who(name: str, values: Sequence[object]) -> None:
    """Check users or groups: names, or numbers (credentials(7): -1 means none)."""
    for value in values:
        match value:
            case bool():
                pass
            case int() if 0 <= value < _NOBODY:
                continue
            case str() if value and "\0" not in value:
                continue
        raise ConfigurationError(name, f"must be a name or a number from 0 to {_NOBODY - 1}, not {value!r}")


def _check_descriptors(value: object) -> None:
    for fd in _check_sequence("pass_fds", value, "a sequence of descriptors"):
        if isinstance(fd, bool) or not isinstance(fd, int) or fd < 0:
            raise ConfigurationError("pass_fds", f"{fd!r} is not the number of a descriptor")
        if fd < FIRST_OTHER:
            raise ConfigurationError("pass_fds", f"{fd} is a standard stream; `stdio` is for these")


def _check_addresses(value: object) -> None:
    for address in _check_sequence("addresses", value, "a sequence"):
        match address:
            case (str(host), int()) if _is_numeric(host):
                continue
            case bool():
                pass
            case int() | os.PathLike():
                continue
            case str() if address:
                continue
        problem = f"{address!r} is neither (numeric host, port) nor a path nor the number of a descriptor"
        raise ConfigurationError("addresses", problem)


def _is_numeric(host: str) -> bool:
    import ipaddress  # late: few programs name addresses here

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_env(name: str, env: object) -> None:
    """Raise unless `env` maps valid variable names to strings (or None, to remove one)."""
    if not isinstance(env, Mapping):
        raise ConfigurationError(name, f"must be a mapping of strings, not {env!r}")
    for key, value in env.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise ConfigurationError(name, f"{key!r} is not the name of a variable")
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise ConfigurationError(name, f"{key} must be a string without NUL, not {value!r}")


def check_proxy(name: str) -> None:
    """Raise ValueError unless `name` is an address, a network, "unix" or "*"."""
    if name in (UNIX_PROXIES, EVERYBODY):
        return
    import ipaddress  # late, as above

    try:
        ipaddress.ip_network(name)
    except ValueError as error:
        hint = f"; {UNIX_PROXIES!r} means those on unix sockets, {EVERYBODY!r} everybody"
        if "host bits" in str(error):
            hint = f"; its network is {ipaddress.ip_network(name, strict=False)}"
        raise ValueError(f"must be an address or a network, not {name!r}{hint}") from None


def check_proxies(setting: str, names: object) -> None:
    """Raise unless `names` is a sequence of names that `check_proxy` accepts."""
    check_strings(setting, names)
    for name in _check_sequence(setting, names, "a sequence of strings"):
        try:
            check_proxy(name)
        except ValueError as error:
            raise ConfigurationError(setting, str(error)) from None


def check_policy(policy: object, *, source: str = "argument") -> str:
    """Return `policy` if it is known. The error of an unknown one lists the known policies."""
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise ConfigurationError("policy", f"unknown policy {policy!r}; known are: {known}", source=source)
    return str(policy)


def choose_policy(chosen: str | None, environ: Mapping[str, str]) -> str:
    """Return the policy: the argument, else `EVERYCORE_POLICY`, else "round_robin"."""
    if chosen is not None:
        return check_policy(chosen)
    from_environment = environ.get(POLICY_VARIABLE)
    if from_environment:
        return check_policy(from_environment, source=POLICY_VARIABLE)
    return POLICIES[0]


def check_seconds(name: str, value: object, *, source: str = "argument", least: float = 0.0) -> float:
    """Return `value` as seconds: a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(name, f"must be a number of seconds, not {value!r}", source=source)
    if not math.isfinite(value) or value < least:
        raise ConfigurationError(name, f"must be at least {least:g} seconds, not {value!r}", source=source)
    return float(value)


def check_stall(name: str, value: object, *, source: str = "argument") -> float | None:
    """Return `value` as the limit of seconds without progress. None and 0 mean no limit."""
    if value is None or (value == 0 and not isinstance(value, bool)):
        return None
    return check_seconds(name, value, source=source, least=LEAST_STALL)


def check_count(name: str, value: object, *, source: str = "argument", least: int = 1) -> int:
    """Return `value`: a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            name, f"must be a whole number of at least {least}, not {value!r}", source=source
        )
    return value


def check_loop(name: str, value: object, *, source: str = "argument") -> str:
    """Return `value` if there is such an event loop and it is installed."""
    kind = check_choice(name, value, LOOPS, source=source)
    if kind == "uvloop" and not has_uvloop():
        problem = "uvloop is not installed; `pip install everycore[uvloop]` does that"
        raise ConfigurationError(name, problem, source=source)
    return kind


def has_uvloop() -> bool:
    """Whether uvloop is installed. This does not import it."""
    return importlib.util.find_spec("uvloop") is not None


def check_choice(name: str, value: object, known: Sequence[str], *, source: str = "argument") -> str:
    """Return `value` if it is among `known`."""
    if value not in known:
        raise ConfigurationError(name, f"must be one of {', '.join(known)}, not {value!r}", source=source)
    return str(value)
