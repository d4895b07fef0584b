"""The tree: every setting of `everycore serve` and `everycore run`, with its type, default and meaning.

Everything else derives from it. To add a setting, add a field here (or in `common` or `lifetimes`, if both
commands have it), use it where it takes effect, and draw the pages (`python docs/make_options.py`). Options
that only an engine has are in `servers.engine_options`.
"""

from typing import Annotated, Final, Literal

from everycore.config.access_format import ATOMS, HEADER_ATOMS, check_format
from everycore.config.common import CommonSettings, service_name
from everycore.config.defaults import HOST, PORT
from everycore.config.kinds import (
    ADDRESS,
    Choice,
    Count,
    EngineName,
    LoopName,
    Mode,
    Path,
    Seconds,
    Several,
    Switch,
    Text,
)
from everycore.config.modules import ModuleName
from everycore.config.owners import (
    GroupNameShort,
    Permitted,
    SocketMode,
    SocketOwner,
    UserNameShort,
)
from everycore.config.sections import ADDRESSES, APPLICATION, LOG, STOP, SUPERVISION, WORKERS
from everycore.config.setting import Setting
from everycore.settings import LEAST_STALL, LOOPS

ENGINES: Final = ("uvicorn", "hypercorn")
INTERFACES: Final = ("auto", "asgi", "wsgi", "asgi2", "asgi3")

_NO_ACCESS_LOG: Final = "off; on with --access-logfile, --access-logformat or --log-config"


class RunSettings(CommonSettings, frozen=True, kw_only=True):
    """The settings of `everycore run`."""

    preload: Annotated[
        tuple[str, ...],
        Setting(
            Several(ModuleName("MODULE[,MODULE]")),
            "Import these modules once, and fork the workers from there; may be repeated.",
            WORKERS,
            is_fixed=True,
        ),
    ] = ()
    port_zero: Annotated[
        Literal["auto", "shared", "own"],
        Setting(
            Choice("auto", "shared", "own"),
            "Port 0 is one port for all workers, or one for each; auto: shared until the program serves.",
            ADDRESSES,
        ),
    ] = "auto"
    permit: Permitted = ()
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(
            LoopName(*LOOPS),
            f"The event loop of a program that lets asyncio choose: {', '.join(LOOPS)}.",
            WORKERS,
        ),
    ] = "auto"
    name: Annotated[str | None, service_name("the program")] = None


class ServeSettings(CommonSettings, frozen=True, kw_only=True):
    """The settings of `everycore serve`."""

    user: UserNameShort = None
    group: GroupNameShort = None
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(LoopName(*LOOPS), f"The event loop: {', '.join(LOOPS)}.", WORKERS, also=("--asgi-loop",)),
    ] = "auto"
    umask: Annotated[
        int | None,
        Setting(
            Mode(),
            "Umask: the permissions that new files and sockets lack.",
            WORKERS,
            also=("-m",),
            default="unchanged",
        ),
    ] = None
    preload: Annotated[
        bool,
        Setting(
            Switch(),
            "Import APP once, and fork the workers from there: they use less memory and start faster.",
            WORKERS,
            is_fixed=True,
        ),
    ] = False
    app: Annotated[
        str | None, Setting(Text("APP"), "MODULE:ATTRIBUTE, the application.", APPLICATION, is_argument=True)
    ] = None
    bind: Annotated[
        tuple[str, ...],
        Setting(
            Several(ADDRESS),
            "HOST:PORT, HOST, PORT, [V6]:PORT, unix:PATH or fd://N; may be repeated. Port 0 is any free port;"
            " :PORT is every IPv4 address.",
            ADDRESSES,
            also=("-b",),
            default=f"systemd's sockets (LISTEN_FDS), else {HOST}:{PORT}",
            is_fixed=True,
        ),
    ] = ()
    host: Annotated[
        str | None,
        Setting(
            Text(),
            "Only the host, for use with --port.",
            ADDRESSES,
            default=f"{HOST}; 0.0.0.0 if the variable PORT is set",
            is_fixed=True,
        ),
    ] = None
    port: Annotated[
        int,
        Setting(
            Count(0, most=65535, metavar="PORT"),
            "Only the port, for use with --host.",
            ADDRESSES,
            implied={"PORT": None},
            default=f"the variable PORT, else {PORT}",
            is_fixed=True,
        ),
    ] = PORT
    uds: Annotated[
        str | None, Setting(Path("PATH"), "A unix socket: --bind unix:PATH.", ADDRESSES, is_fixed=True)
    ] = None
    fd: Annotated[
        int | None,
        Setting(Count(0), "An inherited socket: --bind fd://N.", ADDRESSES, is_fixed=True),
    ] = None
    socket_mode: SocketMode = None
    socket_owner: SocketOwner = None
    backlog: Annotated[
        int, Setting(Count(1), "Most connections that wait in the kernel.", ADDRESSES, is_fixed=True)
    ] = 2048
    boot_timeout: Annotated[
        float, Setting(Seconds(0.1), "How long a worker may take to become ready.", WORKERS)
    ] = 60.0
    engine: Annotated[
        Literal["uvicorn", "hypercorn"],
        Setting(EngineName(*ENGINES), "uvicorn, or hypercorn for HTTP/2.", APPLICATION, is_fixed=True),
    ] = "uvicorn"
    factory: Annotated[
        bool, Setting(Switch(), "APP is a factory: call it without arguments.", APPLICATION)
    ] = False
    interface: Annotated[
        Literal["auto", "asgi", "wsgi", "asgi2", "asgi3"],
        Setting(Choice(*INTERFACES), f"The interface of APP: {', '.join(INTERFACES)}.", APPLICATION),
    ] = "auto"
    app_dir: Annotated[
        str,
        Setting(
            Path("FOLDER"),
            "Look for APP in this folder first.",
            APPLICATION,
            also=("--pythonpath",),
            default="the current folder",
        ),
    ] = "."
    shutdown_timeout: Annotated[
        float,
        Setting(
            Seconds(),
            "How long the application's own shutdown may take, at least, after the grace.",
            STOP,
        ),
    ] = 10.0
    spread: Annotated[
        float | None,
        Setting(
            Seconds(),
            "How long a stop takes to end WebSockets and event streams, spread over that time.",
            STOP,
            default="half the grace",
        ),
    ] = None
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            Choice("auto", "on", "off"),
            "ASGI's lifespan; on: APP must support it; off: APP is not asked.",
            APPLICATION,
            also=("--asgi-lifespan",),
        ),
    ] = "auto"
    threads: Annotated[
        int,
        Setting(
            Count(1),
            "Threads in each worker that run a WSGI application.",
            APPLICATION,
            also=("--blocking-threads",),
        ),
    ] = 10
    env_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Set the application's variables from this file, NAME=VALUE a line; those already set stay.",
            APPLICATION,
            also=("--env-files",),
        ),
    ] = None
    access_log: Annotated[
        bool | None, Setting(Switch(), "Log every request.", LOG, default=_NO_ACCESS_LOG)
    ] = None
    access_logfile: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Log every request to this file, which may be moved away at any time. A dash is stderr.",
            LOG,
            default="the same as --log-file",
        ),
    ] = None
    access_logformat: Annotated[
        str | None,
        Setting(
            Text("FORMAT", check_format),
            f"Format of logged requests, in gunicorn's syntax, from: {', '.join((*ATOMS, *HEADER_ATOMS))}.",
            LOG,
            default="uvicorn's line, the duration, and the id",
        ),
    ] = None
    log_config: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Configure the workers' logs from this file, by logging.config: .ini, .json, .yaml.",
            LOG,
        ),
    ] = None
    show_counts: Annotated[
        bool, Setting(Switch(), "Show how many connections each worker took.", LOG, is_fixed=True)
    ] = False
    stall_kill: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "Abort and replace a worker that makes no progress for this long; 0: never.",
            SUPERVISION,
            also=("-t", "--timeout"),
            default="60; with --reload: never",
        ),
    ] = 60.0
    max_requests: Annotated[
        int | None,
        Setting(
            Count(0),
            "Replace a worker after about N requests.",
            SUPERVISION,
            also=("--limit-max-requests",),
            default="never",
        ),
    ] = None
    max_requests_jitter: Annotated[
        int | None,
        Setting(
            Count(0),
            "Add up to N requests to that, at random.",
            SUPERVISION,
            also=("--limit-max-requests-jitter",),
            default="a tenth more or less",
        ),
    ] = None
