"""What the commands share: options, and where their values come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import click

from everycore.cli import sources
from everycore.ops import logs
from everycore.settings import LOOPS, POLICIES
from everycore.system.machine import Bound, cpu_bound, memory_limit, worker_bound

Function = TypeVar("Function", bound=Callable[..., Any])

#: Click's own settings, of every command.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


workers_option = click.option(
    "--workers", metavar="N|auto", help="How many; auto: one a CPU, as memory allows.  [default: auto]"
)
policy_option = click.option(
    "--policy",
    metavar="NAME",
    help=f"Who gets the next connection: {', '.join(POLICIES)}.  [default: {POLICIES[0]}]",
)
grace_option = click.option(
    "--grace", metavar="SECONDS", help="Time to finish when stopped.  [default: 30; Kubernetes: 25]"
)
stop_delay_option = click.option(
    "--stop-delay",
    metavar="SECONDS",
    help="After TERM or INT, serve on for so long: load balancers hear of a stop late.  [default: 0]",
)
surge_option = click.option(
    "--surge",
    metavar="N",
    help="Workers that a reload starts at a time; 0: stop the old one first.  [default: 1]",
)
log_level_option = click.option(
    "--log-level", metavar="LEVEL", help=f"{', '.join(logs.LEVELS)}.  [default: info]"
)
keep_nofile_option = click.option(
    "--keep-nofile", is_flag=True, help="Leave the soft limit of descriptors as it is."
)


def loop_option(what: str) -> Callable[[Function], Function]:
    """`--loop`; `what` the loop is for."""
    text = f"{what}: {', '.join(LOOPS)}.  [default: {LOOPS[0]}]"
    return click.option("--loop", metavar="NAME", help=text)


def name_option(default: str) -> Callable[[Function], Function]:
    """`--name`; `default` says what it is otherwise."""
    text = f"What this service is called in log lines.  [default: {default}]"
    return click.option("--name", metavar="TEXT", help=text)


class Values:
    """The values of options: what click read, else the environment, else a default.

    Each method raises ConfigurationError, which names the setting and where the value came from.
    """

    def __init__(self, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = environ

    def resolve(
        self, option: str, parse: sources.Parser[Any], default: Any, also: tuple[str, ...] = ()
    ) -> sources.Resolved[Any]:
        """The value, and its source. `also`: further variables."""
        argument = self._arguments[option.removeprefix("--").replace("-", "_")]
        return sources.resolve(option, argument, parse, default, environ=self._environ, also=also)

    def get(self, option: str, parse: sources.Parser[Any], default: Any) -> Any:
        """The value alone."""
        return self.resolve(option, parse, default).value

    def workers(self) -> Bound:
        """The number of workers, and why."""
        found: sources.Resolved[int | Literal["auto"]] = self.resolve(
            "--workers", sources.parse_workers, "auto", also=("WEB_CONCURRENCY",)
        )
        if found.value == "auto":
            bound = worker_bound(cpu_bound(), memory_limit())
            return Bound(bound.count, f"auto: {bound.reason}")
        return Bound(found.value, found.source)

    def policy(self) -> Any:
        """The name of the policy; None: none was chosen."""
        return self.get("--policy", sources.parse_choice(POLICIES), None)

    def loop(self) -> Any:
        """The name of the event loop."""
        return self.get("--loop", sources.parse_loop, "auto")

    def grace(self) -> Any:
        """Seconds to finish. Kubernetes kills after 30."""
        default = 25.0 if "KUBERNETES_SERVICE_HOST" in self._environ else 30.0
        return self.get("--grace", sources.parse_seconds(0.0), default)

    def stop_delay(self) -> Any:
        """Seconds from the signal that stops the service until its workers are asked to leave."""
        return self.get("--stop-delay", sources.parse_seconds(0.0), 0.0)

    def surge(self) -> Any:
        """How many workers a reload starts at a time."""
        return self.get("--surge", sources.parse_count(0), 1)

    def log_level(self) -> Any:
        """The name of the log level."""
        return self.get("--log-level", sources.parse_choice(logs.LEVELS), "info")

    def name(self, default: str) -> Any:
        """What the service is called."""
        return self.get("--name", sources.parse_text, default)
