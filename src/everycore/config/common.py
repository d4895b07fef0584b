"""The settings that `everycore serve` and `everycore run` share: the trunk of `config.tree`."""

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

#: The levels, from the quietest to the most verbose.
LEVELS: Final = ("critical", "error", "warning", "info", "debug", "trace")


def service_name(default: str) -> Setting:
    """The setting `name`, whose default depends on the command."""
    what = "The name of this service in log lines and for everycore status."
    return Setting(Text(), what, LOG, also=("-n",), default=default, is_fixed=True)


class CommonSettings(LifetimeSettings, frozen=True, kw_only=True):
    """The settings that both commands have."""

    workers: Annotated[
        int | Literal["auto"],
        Setting(
            Count(1, auto=True, most=MOST_WORKERS),
            "How many workers; auto: one a CPU, as memory allows.",
            WORKERS,
            also=("-w",),
            variables=("WEB_CONCURRENCY",),
        ),
    ] = "auto"
    policy: Annotated[
        str | None,
        Setting(
            Choice(*POLICIES),
            f"How connections are spread over workers: {', '.join(POLICIES)}.",
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
            "With --preload: fork even if the import leaves threads running.",
            WORKERS,
            is_fixed=True,
        ),
    ] = False
    chdir: Annotated[
        str | None,
        Setting(
            Path("FOLDER"),
            "Change to this folder; relative paths in other options begin there.",
            WORKERS,
            also=("--working-dir", "--cwd"),
            default="the current folder",
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        Setting(
            Variables(), "Set a variable in the workers' environment; may be repeated.", WORKERS, also=("-e",)
        ),
    ] = msgspec.field(default_factory=dict)
    umask: Annotated[
        int | None,
        Setting(
            Mode(), "Umask: the permissions that new files and sockets lack.", WORKERS, default="unchanged"
        ),
    ] = None
    user: UserName = None
    group: GroupName = None
    keep_nofile: Annotated[
        bool, Setting(Switch(), "Do not raise the soft limit of descriptors.", WORKERS, is_fixed=True)
    ] = False
    pid: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Write the primary's process id to this file.",
            WORKERS,
            also=("-p", "--pid-file"),
            is_fixed=True,
        ),
    ] = None
    grace: Annotated[
        float,
        Setting(
            Seconds(),
            "How long workers may finish their work when they are stopped.",
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
            "How long to go on serving after TERM or INT, until load balancers have noticed the stop.",
            STOP,
            is_fixed=True,
        ),
    ] = 0.0
    surge: Annotated[
        int,
        Setting(Count(0), "How many workers a reload starts at a time; 0: stop the old one first.", STOP),
    ] = 1
    log_level: Annotated[
        str, Setting(Choice(*LEVELS, metavar="LEVEL"), f"How much is logged: {', '.join(LEVELS)}.", LOG)
    ] = "info"
    log_file: Annotated[
        str | None,
        Setting(
            Path("FILE"),
            "Append the log to this file; USR1 and a reload reopen it. A dash is stderr.",
            LOG,
            also=("--error-logfile", "--error-log"),
            default="stderr",
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Setting(Choice("text", "json"), "The format of log lines: text, json.", LOG),
    ] = "text"
    name: Annotated[str | None, service_name("APP")] = None
    reload: Annotated[
        bool,
        Setting(
            Switch(),
            "Reload when files change. Runs one worker; Ctrl-C ends at once.",
            DEVELOPMENT,
            is_fixed=True,
        ),
    ] = False
    reload_dir: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("FOLDER")),
            "Watch this folder and everything below it; may be repeated.",
            DEVELOPMENT,
            default="the current folder, and that of APP or SCRIPT",
            is_fixed=True,
        ),
    ] = ()
    reload_include: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Watch files of this pattern too, as in '*.html'; may be repeated.",
            DEVELOPMENT,
            default=", ".join(INCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        Setting(
            Several(Path("GLOB")),
            "Ignore files and folders of this pattern; may be repeated.",
            DEVELOPMENT,
            default=", ".join(EXCLUDES),
            is_fixed=True,
        ),
    ] = ()
    reload_delay: Annotated[
        float,
        Setting(Seconds(), "How long files must be unchanged before a reload.", DEVELOPMENT, is_fixed=True),
    ] = 0.25
