"""The tree: every setting of `everycore serve` and `everycore run`, its type, its default and what it means.

Everything else derives from it: add a field here (or in `common` or `lifetimes`, where both commands have
it), use it where it takes effect, and draw the pages (`python docs/make_options.py`). What only the engine
has is not here (`servers.engine_options`).
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
            "Import these once, and fork the workers from there; may be repeated.",
            WORKERS,
            is_fixed=True,
        ),
    ] = ()
    port_zero: Annotated[
        Literal["auto", "shared", "own"],
        Setting(
            Choice("auto", "shared", "own"),
            "A port 0 is one port for all workers, or each one's own; auto: shared until the program serves.",
            ADDRESSES,
        ),
    ] = "auto"
    permit: Permitted = ()
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(
            LoopName(*LOOPS),
            f"The loop of a program that leaves it to asyncio: {', '.join(LOOPS)}.",
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
            "Permissions that new files lack, sockets too.",
            WORKERS,
            also=("-m",),
            default="as it is",
        ),
    ] = None
    preload: Annotated[
        bool,
        Setting(
            Switch(),
            "Import APP once, and fork the workers from there: less memory, a quicker start.",
            WORKERS,
            is_fixed=True,
        ),
    ] = False
    app: Annotated[
        str | None, Setting(Text("APP"), "MODULE:ATTRIBUTE, what to serve.", APPLICATION, is_argument=True)
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
            "The host alone, with --port.",
            ADDRESSES,
            default=f"{HOST}; 0.0.0.0 with the variable PORT",
            is_fixed=True,
        ),
    ] = None
    port: Annotated[
        int,
        Setting(
            Count(0, most=65535, metavar="PORT"),
            "The port alone, with --host.",
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
        Setting(Count(0), "A socket that was inherited: --bind fd://N.", ADDRESSES, is_fixed=True),
    ] = None
    socket_mode: SocketMode = None
    socket_owner: SocketOwner = None
    backlog: Annotated[
        int, Setting(Count(1), "Connections that wait in the kernel at most.", ADDRESSES, is_fixed=True)
    ] = 2048
    boot_timeout: Annotated[float, Setting(Seconds(0.1), "Time to become ready.", WORKERS)] = 60.0
    engine: Annotated[
        Literal["uvicorn", "hypercorn"],
        Setting(EngineName(*ENGINES), "uvicorn, or hypercorn for HTTP/2.", APPLICATION, is_fixed=True),
    ] = "uvicorn"
    factory: Annotated[
        bool, Setting(Switch(), "APP makes the application: call it without arguments.", APPLICATION)
    ] = False
    interface: Annotated[
        Literal["auto", "asgi", "wsgi", "asgi2", "asgi3"],
        Setting(Choice(*INTERFACES), f"What APP speaks: {', '.join(INTERFACES)}.", APPLICATION),
    ] = "auto"
    app_dir: Annotated[
        str,
        Setting(
            Path("FOLDER"),
            "Where to look for APP first.",
            APPLICATION,
            also=("--pythonpath",),
            default="here",
        ),
    ] = "."
    shutdown_timeout: Annotated[
        float,
        Setting(
            Seconds(),
            "Time for the application's own shutdown, at least, after the grace.",
            STOP,
        ),
    ] = 10.0
    spread: Annotated[
        float | None,
        Setting(
            Seconds(),
            "Over how long a stop spreads the ends of WebSockets and event streams.",
            STOP,
            default="half the grace",
        ),
    ] = None
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            Choice("auto", "on", "off"),
            "ASGI's lifespan; on: an application without one cannot start; off: it is not asked.",
            APPLICATION,
            also=("--asgi-lifespan",),
        ),
    ] = "auto"
    threads: Annotated[
        int,
        Setting(
            Count(1),
            "Threads of a worker for a WSGI application.",
            APPLICATION,
            also=("--blocking-threads",),
        ),
    ] = 10
    env_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Variables for the application, NAME=VALUE a line; those that are set already stay.",
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
            "Log every request there; it may be moved away at any time. A dash is stderr.",
            LOG,
            default="as --log-file",
        ),
    ] = None
    access_logformat: Annotated[
        str | None,
        Setting(
            Text("FORMAT", check_format),
            f"How a request is logged, as gunicorn writes it, of: {', '.join((*ATOMS, *HEADER_ATOMS))}.",
            LOG,
            default="uvicorn's line, duration and id",
        ),
    ] = None
    log_config: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "How workers log, for logging.config: .ini, .json, .yaml. The primary goes on as it logs.",
            LOG,
        ),
    ] = None
    show_counts: Annotated[
        bool, Setting(Switch(), "Show which worker took how many connections.", LOG, is_fixed=True)
    ] = False
    stall_kill: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "A worker without progress for so long is aborted and replaced; 0: never.",
            SUPERVISION,
            also=("-t", "--timeout"),
            default="60; with --reload: never",
        ),
    ] = 60.0
    max_requests: Annotated[
        int | None,
        Setting(
            Count(0),
            "A worker is replaced after so many requests, about.",
            SUPERVISION,
            also=("--limit-max-requests",),
            default="never",
        ),
    ] = None
    max_requests_jitter: Annotated[
        int | None,
        Setting(
            Count(0),
            "Up to so many requests more, at random.",
            SUPERVISION,
            also=("--limit-max-requests-jitter",),
            default="a tenth more or less",
        ),
    ] = None
