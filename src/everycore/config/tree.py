"""The tree: every setting of `everycore serve` and `everycore run`, its type, its default and what it means.

Everything else derives from it: add a field here, use it where it takes effect, and draw the pages
(`python docs/make_options.py`). What only the engine has is not here (`servers.engine_options`).
"""

from typing import Annotated, Final, Literal

import msgspec

from everycore.config.access_format import ATOMS, HEADER_ATOMS, check_format
from everycore.config.kinds import (
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
    Variables,
)
from everycore.config.setting import Setting
from everycore.config.trusted import TrustedProxies
from everycore.config.watched import EXCLUDES, INCLUDES
from everycore.settings import LOOPS, POLICIES

#: From the quietest to the loudest.
LEVELS: Final = ("critical", "error", "warning", "info", "debug", "trace")
ENGINES: Final = ("uvicorn", "hypercorn")
INTERFACES: Final = ("auto", "asgi", "wsgi", "asgi2", "asgi3")

#: The board has a row for each; the rest are for those that a reload starts beside them.
MOST_WORKERS: Final = 1000

HOST: Final = "127.0.0.1"
PORT: Final = 8000

_ADDRESSES: Final = "Addresses"
_WORKERS: Final = "Workers"
_APPLICATION: Final = "Application"
_STOP: Final = "Stop and reload"
_LOG: Final = "Log"
_DEVELOPMENT: Final = "Development"
_NO_ACCESS_LOG: Final = "off; on with --access-logfile, --access-logformat or --log-config"
#: As `--help` and the reference have them.
SECTIONS: Final = (_ADDRESSES, _WORKERS, _APPLICATION, _STOP, _LOG, _DEVELOPMENT)


def _service_name(default: str) -> Setting:
    what = "What this service is called in log lines."
    return Setting(Text(), what, _LOG, also=("-n",), default=default, is_fixed=True)


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What both commands have."""

    workers: Annotated[
        int | Literal["auto"],
        Setting(
            Count(1, auto=True, most=MOST_WORKERS),
            "How many; auto: one a CPU, as memory allows.",
            _WORKERS,
            also=("-w",),
            variables=("WEB_CONCURRENCY",),
        ),
    ] = "auto"
    policy: Annotated[
        str | None,
        Setting(
            Choice(*POLICIES),
            f"Who gets the next connection: {', '.join(POLICIES)}.",
            _WORKERS,
            default=POLICIES[0],
            is_fixed=True,
        ),
    ] = None
    trust_proxy_protocol: TrustedProxies = ()
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(LoopName(*LOOPS), f"The event loop: {', '.join(LOOPS)}.", _WORKERS),
    ] = "auto"
    chdir: Annotated[
        str | None,
        Setting(
            Path("FOLDER"),
            "Be in this folder; paths of other options begin there.",
            _WORKERS,
            also=("--working-dir", "--cwd"),
            default="here",
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        Setting(
            Variables(), "A variable of the workers' environment; may be repeated.", _WORKERS, also=("-e",)
        ),
    ] = msgspec.field(default_factory=dict)
    umask: Annotated[
        int | None,
        Setting(Mode(), "Permissions that new files lack, sockets too.", _WORKERS, default="as it is"),
    ] = None
    keep_nofile: Annotated[
        bool, Setting(Switch(), "Leave the soft limit of descriptors as it is.", _WORKERS, is_fixed=True)
    ] = False
    pid: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Write the primary's process id there.",
            _WORKERS,
            also=("-p", "--pid-file"),
            is_fixed=True,
        ),
    ] = None
    grace: Annotated[
        float,
        Setting(
            Seconds(),
            "Time to finish when stopped.",
            _STOP,
            also=("--graceful-timeout", "--timeout-graceful-shutdown", "--workers-kill-timeout"),
            implied={"KUBERNETES_SERVICE_HOST": 25.0},
            default="30; Kubernetes: 25",
        ),
    ] = 30.0
    stop_delay: Annotated[
        float,
        Setting(
            Seconds(),
            "After TERM or INT, serve on for so long: load balancers hear of a stop late.",
            _STOP,
            is_fixed=True,
        ),
    ] = 0.0
    surge: Annotated[
        int,
        Setting(Count(0), "Workers that a reload starts at a time; 0: stop the old one first.", _STOP),
    ] = 1
    log_level: Annotated[
        str, Setting(Choice(*LEVELS, metavar="LEVEL"), f"How much is logged: {', '.join(LEVELS)}.", _LOG)
    ] = "info"
    log_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Append the log to that; USR1 and a reload open it anew. A dash is stderr.",
            _LOG,
            also=("--error-logfile", "--error-log"),
            default="stderr",
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Setting(Choice("text", "json"), "How a line of the log is written: text, json.", _LOG),
    ] = "text"
    name: Annotated[str | None, _service_name("APP")] = None
    reload: Annotated[
        bool,
        Setting(
            Switch(),
            "Reload when files change, with one worker; Ctrl-C ends at once.",
            _DEVELOPMENT,
            is_fixed=True,
        ),
    ] = False
    reload_dir: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("FOLDER")),
            "Watch this folder, with all that is in it; may be repeated.",
            _DEVELOPMENT,
            default="here, and where APP or SCRIPT is",
            is_fixed=True,
        ),
    ] = ()
    reload_include: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Files that count too, as in '*.html'; may be repeated.",
            _DEVELOPMENT,
            default=", ".join(INCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Files and folders that do not count; may be repeated.",
            _DEVELOPMENT,
            default=", ".join(EXCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_delay: Annotated[
        float,
        Setting(Seconds(), "So long without a change before a reload.", _DEVELOPMENT, is_fixed=True),
    ] = 0.25


class RunSettings(CommonSettings, frozen=True, kw_only=True):
    """The settings of `everycore run`."""

    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(
            LoopName(*LOOPS),
            f"The loop of a program that leaves it to asyncio: {', '.join(LOOPS)}.",
            _WORKERS,
        ),
    ] = "auto"
    name: Annotated[str | None, _service_name("the program")] = None


class ServeSettings(CommonSettings, frozen=True, kw_only=True):
    """The settings of `everycore serve`."""

    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(LoopName(*LOOPS), f"The event loop: {', '.join(LOOPS)}.", _WORKERS, also=("--asgi-loop",)),
    ] = "auto"
    umask: Annotated[
        int | None,
        Setting(
            Mode(),
            "Permissions that new files lack, sockets too.",
            _WORKERS,
            also=("-m",),
            default="as it is",
        ),
    ] = None
    app: Annotated[
        str | None, Setting(Text("APP"), "MODULE:ATTRIBUTE, what to serve.", _APPLICATION, is_argument=True)
    ] = None
    bind: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("ADDRESS")),
            "HOST:PORT, HOST, PORT, [V6]:PORT, unix:PATH or fd://N; may be repeated. Port 0 is any free port;"
            " :PORT is every IPv4 address.",
            _ADDRESSES,
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
            _ADDRESSES,
            default=f"{HOST}; 0.0.0.0 with the variable PORT",
            is_fixed=True,
        ),
    ] = None
    port: Annotated[
        int,
        Setting(
            Count(0, most=65535, metavar="PORT"),
            "The port alone, with --host.",
            _ADDRESSES,
            implied={"PORT": None},
            default=f"the variable PORT, else {PORT}",
            is_fixed=True,
        ),
    ] = PORT
    uds: Annotated[
        str | None, Setting(Path("PATH"), "A unix socket: --bind unix:PATH.", _ADDRESSES, is_fixed=True)
    ] = None
    fd: Annotated[
        int | None,
        Setting(Count(0), "A socket that was inherited: --bind fd://N.", _ADDRESSES, is_fixed=True),
    ] = None
    socket_mode: Annotated[
        int | None,
        Setting(
            Mode(),
            "Permissions of unix sockets.",
            _ADDRESSES,
            also=("--uds-permissions",),
            default="0o777 without the umask",
            is_fixed=True,
        ),
    ] = None
    socket_owner: Annotated[
        str | None,
        Setting(
            Text("USER[:GROUP]"),
            "Whom unix sockets belong to.",
            _ADDRESSES,
            default="who starts",
            is_fixed=True,
        ),
    ] = None
    backlog: Annotated[
        int, Setting(Count(1), "Connections that wait in the kernel at most.", _ADDRESSES, is_fixed=True)
    ] = 2048
    boot_timeout: Annotated[float, Setting(Seconds(0.1), "Time to become ready.", _WORKERS)] = 60.0
    engine: Annotated[
        Literal["uvicorn", "hypercorn"],
        Setting(EngineName(*ENGINES), "uvicorn, or hypercorn for HTTP/2.", _APPLICATION, is_fixed=True),
    ] = "uvicorn"
    factory: Annotated[
        bool, Setting(Switch(), "APP makes the application: call it without arguments.", _APPLICATION)
    ] = False
    interface: Annotated[
        Literal["auto", "asgi", "wsgi", "asgi2", "asgi3"],
        Setting(Choice(*INTERFACES), f"What APP speaks: {', '.join(INTERFACES)}.", _APPLICATION),
    ] = "auto"
    app_dir: Annotated[
        str,
        Setting(
            Path("FOLDER"),
            "Where to look for APP first.",
            _APPLICATION,
            also=("--pythonpath",),
            default="here",
        ),
    ] = "."
    shutdown_timeout: Annotated[
        float,
        Setting(
            Seconds(),
            "Time for the application's own shutdown, at least, after the grace.",
            _STOP,
        ),
    ] = 10.0
    spread: Annotated[
        float | None,
        Setting(
            Seconds(),
            "Over how long a stop spreads the ends of WebSockets and event streams.",
            _STOP,
            default="half the grace",
        ),
    ] = None
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            Choice("auto", "on", "off"),
            "ASGI's lifespan; on: an application without one cannot start; off: it is not asked.",
            _APPLICATION,
            also=("--asgi-lifespan",),
        ),
    ] = "auto"
    threads: Annotated[
        int,
        Setting(
            Count(1),
            "Threads of a worker for a WSGI application.",
            _APPLICATION,
            also=("--blocking-threads",),
        ),
    ] = 10
    env_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Variables for the application, NAME=VALUE a line; those that are set already stay.",
            _APPLICATION,
            also=("--env-files",),
        ),
    ] = None
    access_log: Annotated[
        bool | None, Setting(Switch(), "Log every request.", _LOG, default=_NO_ACCESS_LOG)
    ] = None
    access_logfile: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Log every request there; it may be moved away at any time. A dash is stderr.",
            _LOG,
            default="as --log-file",
        ),
    ] = None
    access_logformat: Annotated[
        str | None,
        Setting(
            Text("FORMAT", check_format),
            f"How a request is logged, as gunicorn writes it, of: {', '.join((*ATOMS, *HEADER_ATOMS))}.",
            _LOG,
            default="uvicorn's line, duration and id",
        ),
    ] = None
    log_config: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "How workers log, for logging.config: .ini, .json, .yaml. The primary goes on as it logs.",
            _LOG,
        ),
    ] = None
    show_counts: Annotated[
        bool, Setting(Switch(), "Show which worker took how many connections.", _LOG, is_fixed=True)
    ] = False
