"""The settings that `everycore serve` and `everycore run` both have: the trunk of `config.tree`."""

from typing import Annotated, Final, Literal

import msgspec

from everycore.config.control import ControlPath
from everycore.config.kinds import (
    Choice,
    Count,
    LoopName,
    Mode,
    Path,
    Seconds,
    Several,
    Switch,
    Text,
    Variables,
)
from everycore.config.lifetimes import LifetimeSettings
from everycore.config.observing import MetricsAddress, MinReady
from everycore.config.owners import GroupName, UserName
from everycore.config.sections import DEVELOPMENT, LOG, STOP, WORKERS
from everycore.config.setting import Setting
from everycore.config.trusted import TrustedProxies
from everycore.config.watched import EXCLUDES, INCLUDES
from everycore.settings import LOOPS, MOST_WORKERS, POLICIES

#: From the quietest to the loudest.
LEVELS: Final = ("critical", "error", "warning", "info", "debug", "trace")


def service_name(default: str) -> Setting:
    """`name`, whose default is one for each command."""
    what = "What this service is called in log lines."
    return Setting(Text(), what, LOG, also=("-n",), default=default, is_fixed=True)


class CommonSettings(LifetimeSettings, frozen=True, kw_only=True):
    """What both commands have."""

    workers: Annotated[
        int | Literal["auto"],
        Setting(
            Count(1, auto=True, most=MOST_WORKERS),
            "How many; auto: one a CPU, as memory allows.",
            WORKERS,
            also=("-w",),
            variables=("WEB_CONCURRENCY",),
        ),
    ] = "auto"
    policy: Annotated[
        str | None,
        Setting(
            Choice(*POLICIES),
            f"Who gets the next connection: {', '.join(POLICIES)}.",
            WORKERS,
            default=POLICIES[0],
            is_fixed=True,
        ),
    ] = None
    trust_proxy_protocol: TrustedProxies = ()
    control: ControlPath = None
    metrics: MetricsAddress = None
    min_ready: MinReady = 1
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        Setting(LoopName(*LOOPS), f"The event loop: {', '.join(LOOPS)}.", WORKERS),
    ] = "auto"
    preload_force: Annotated[
        bool,
        Setting(
            Switch(),
            "With --preload: fork although the import leaves threads alive.",
            WORKERS,
            is_fixed=True,
        ),
    ] = False
    chdir: Annotated[
        str | None,
        Setting(
            Path("FOLDER"),
            "Be in this folder; paths of other options begin there.",
            WORKERS,
            also=("--working-dir", "--cwd"),
            default="here",
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        Setting(
            Variables(), "A variable of the workers' environment; may be repeated.", WORKERS, also=("-e",)
        ),
    ] = msgspec.field(default_factory=dict)
    umask: Annotated[
        int | None,
        Setting(Mode(), "Permissions that new files lack, sockets too.", WORKERS, default="as it is"),
    ] = None
    user: UserName = None
    group: GroupName = None
    keep_nofile: Annotated[
        bool, Setting(Switch(), "Leave the soft limit of descriptors as it is.", WORKERS, is_fixed=True)
    ] = False
    pid: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Write the primary's process id there.",
            WORKERS,
            also=("-p", "--pid-file"),
            is_fixed=True,
        ),
    ] = None
    grace: Annotated[
        float,
        Setting(
            Seconds(),
            "Time to finish when stopped.",
            STOP,
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
            STOP,
            is_fixed=True,
        ),
    ] = 0.0
    surge: Annotated[
        int,
        Setting(Count(0), "Workers that a reload starts at a time; 0: stop the old one first.", STOP),
    ] = 1
    log_level: Annotated[
        str, Setting(Choice(*LEVELS, metavar="LEVEL"), f"How much is logged: {', '.join(LEVELS)}.", LOG)
    ] = "info"
    log_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Append the log to that; USR1 and a reload open it anew. A dash is stderr.",
            LOG,
            also=("--error-logfile", "--error-log"),
            default="stderr",
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Setting(Choice("text", "json"), "How a line of the log is written: text, json.", LOG),
    ] = "text"
    name: Annotated[str | None, service_name("APP")] = None
    reload: Annotated[
        bool,
        Setting(
            Switch(),
            "Reload when files change, with one worker; Ctrl-C ends at once.",
            DEVELOPMENT,
            is_fixed=True,
        ),
    ] = False
    reload_dir: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("FOLDER")),
            "Watch this folder, with all that is in it; may be repeated.",
            DEVELOPMENT,
            default="here, and where APP or SCRIPT is",
            is_fixed=True,
        ),
    ] = ()
    reload_include: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Files that count too, as in '*.html'; may be repeated.",
            DEVELOPMENT,
            default=", ".join(INCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Files and folders that do not count; may be repeated.",
            DEVELOPMENT,
            default=", ".join(EXCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_delay: Annotated[
        float,
        Setting(Seconds(), "So long without a change before a reload.", DEVELOPMENT, is_fixed=True),
    ] = 0.25
