"""Draws the tables of the pages "Coming from ...": what another server has, and its counterpart in everycore.

The options are those of tests/kit/other_servers.py, which the tests pass to the commands. The settings and
the commands' own answers say what becomes of each.

python docs/make_coming_from.py [--check]    # rewrites the pages; --check only says whether they are current
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from drawn import main  # noqa: E402

from everycore.cli.answers import ANSWERS, answer, answer_to_command  # noqa: E402
from everycore.cli.engine import engine  # noqa: E402
from everycore.cli.keys import GUNICORN, HOOKS  # noqa: E402
from everycore.cli.main import COMMANDS  # noqa: E402
from everycore.cli.options import own_fields, taken  # noqa: E402
from everycore.config.setting import EngineField, Field  # noqa: E402
from everycore.core.signals import POOL, Signal, Surroundings  # noqa: E402
from everycore.core.stopping import COMMAND, PrimaryStage, StopInput  # noqa: E402
from everycore.servers.engine_options import engine_fields  # noqa: E402
from tests.kit import other_servers  # noqa: E402

K = TypeVar("K")
HOW_TO = Path(__file__).parent / "how-to"
_FIELDS: Mapping[str, Field] = {
    word: field for field in [*own_fields("serve"), *engine()] for word in taken([field])
}
_UVICORNS = taken(engine_fields(taken(own_fields("serve")) | frozenset(ANSWERS)))
_CONF = {option: key for key, option in GUNICORN.items() if key != "default_proc_name"}


def typed(peer: str) -> list[str]:
    """The options, or commands, of that peer that the tests use; the first word of each."""
    return list(dict.fromkeys(line.split()[0] for line in getattr(other_servers, peer).strip().splitlines()))


def options(peer: str) -> str:
    """What becomes of each option. Neighbours with one answer share a row."""
    words = [
        word for word in typed(peer) if word.startswith("-") and word not in ("-h", "--help", "--version")
    ]
    rows = [
        f"| {ticked(names)} | {here} | {key} | {default} |"
        for (here, key, default), names in grouped(words, lambda word: becomes(word, peer))
    ]
    return "\n".join(
        [f"| {NAMES[peer]} | here | key of the file | default here |", "|---|---|---|---|", *rows]
    )


#: Options of other servers that have the same name here but another meaning.
OTHERWISE: Mapping[tuple[str, str], str] = {
    ("GRANIAN", "--metrics"): "with an address here: `--metrics HOST:PORT`; granian's switch answers on"
    " 127.0.0.1:9090, or where `--metrics-address` and `--metrics-port` say",
}


def becomes(word: str, peer: str) -> tuple[str, str, str]:
    """That peer's option here, its key, and its default."""
    if word in ("-c", "--config"):
        return "as it is, for a TOML file", "", "`everycore.toml`, else `pyproject.toml`"
    if (field := _FIELDS.get(word)) is None:
        return sentence(answer(word) or ""), "", ""
    name = (
        "as it is"
        if word == field.option or not word.startswith("--")
        else f"as it is; its name here is `{field.option}`"
    )
    if isinstance(field, EngineField):
        name += " (uvicorn's)" if word in _UVICORNS else ", with `--engine hypercorn`"
    name = OTHERWISE.get((peer, word), name)
    default = field.default_text or ("off" if field.setting.kind.form == "switch" else "")
    return name, f"`{field.key}`", default


def commands() -> str:
    """The commands of PM2."""
    words = [word for word in typed("PM2") if not word.startswith("-")]
    rows = [f"| {ticked(names)} | {here} |" for here, names in grouped(words, command)]
    return "\n".join(["| `pm2 ...` | here |", "|---|---|", *rows])


def command(word: str) -> str:
    return f"`everycore {word}`" if word in COMMANDS else sentence(answer_to_command(word) or "")


def keys() -> str:
    """Settings of gunicorn that have another name on its command line."""
    rows = []
    for key, option in GUNICORN.items():
        field = _FIELDS.get(option)
        here = f"`{field.key}`" if field else sentence(answer(option) or "")
        rows.append(f"| `{key}` | {here} |")
    return "\n".join(["| `gunicorn.conf.py` | `everycore.toml` |", "|---|---|", *rows])


def hooks() -> str:
    """The hooks of gunicorn."""
    rows = [
        f"| {ticked(names)} | {here} |" for here, names in grouped(HOOKS, lambda key: sentence(HOOKS[key]))
    ]
    return "\n".join(["| hook | here |", "|---|---|", *rows])


#: The effect of each in other servers, from the sources of gunicorn 27, uvicorn 0.54 and PM2 7.
SIGNALS: Mapping[str, Mapping[str, str]] = {
    "GUNICORN": {
        "SIGTERM": "graceful stop, within `graceful_timeout`",
        "SIGINT": "quick stop",
        "SIGQUIT": "quick stop",
        "SIGHUP": "reads its file again and starts new workers, then ends the old ones",
        "SIGUSR1": "opens the log files anew",
        "SIGUSR2": "starts a second gunicorn beside this one, to replace it",
        "SIGTTIN": "one worker more",
        "SIGTTOU": "one worker fewer",
        "SIGWINCH": "as a daemon: ends the workers and goes on without any",
    },
    "UVICORN": {
        "SIGTERM": "graceful stop",
        "SIGINT": "graceful stop; the second one ends it at once",
        "SIGHUP": "with `--workers`: ends each worker and starts another",
        "SIGTTIN": "with `--workers`: one worker more",
        "SIGTTOU": "with `--workers`: one worker fewer",
    },
}


def signals(peer: str) -> str:
    """The effect of each signal to the primary."""
    rows = [f"| {name} | {theirs} | {ours(name)} |" for name, theirs in SIGNALS[peer].items()]
    return "\n".join([f"| signal | {NAMES[peer]} | everycore |", "|---|---|---|", *rows])


def ours(name: str) -> str:
    for signal in Signal:
        if signal.value == name:
            alone, terminal = (
                POOL[signal, where] for where in (Surroundings.DETACHED, Surroundings.TERMINAL)
            )
            return alone.value if alone is terminal else f"{alone.value}; at a terminal {terminal.value}"
    step = COMMAND[PrimaryStage.RUNNING, StopInput(name)]
    again = COMMAND[step.after, StopInput(name)]
    first = "; then ".join(action.value for action in step.actions)
    second = "; then ".join(action.value for action in again.actions)
    return f"{first}. Again: {second}" if second and step.after is not PrimaryStage.ENDING else first


def grouped(words: Iterable[str], by: Callable[[str], K]) -> list[tuple[K, list[str]]]:
    return [(key, list(names)) for key, names in groupby(words, by)]


def ticked(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def sentence(text: str) -> str:
    return text.replace("|", "\\|")


NAMES = {
    "UVICORN": "uvicorn",
    "GUNICORN": "gunicorn",
    "GRANIAN": "granian",
    "HYPERCORN": "hypercorn",
    "WAITRESS": "waitress",
    "PM2": "PM2",
}
PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "coming-from-uvicorn.md": {
        "options": lambda: options("UVICORN"),
        "signals": lambda: signals("UVICORN"),
    },
    "coming-from-gunicorn.md": {
        "options": lambda: options("GUNICORN"),
        "keys": keys,
        "hooks": hooks,
        "signals": lambda: signals("GUNICORN"),
    },
    "coming-from-pm2.md": {"options": lambda: options("PM2"), "commands": commands},
    "coming-from-others.md": {
        "hypercorn": lambda: options("HYPERCORN"),
        "granian": lambda: options("GRANIAN"),
        "waitress": lambda: options("WAITRESS"),
    },
}


if __name__ == "__main__":
    sys.exit(max(main(HOW_TO / name, parts) for name, parts in PAGES.items()))
