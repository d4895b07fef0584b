"""What to answer to an option that another server has, and this one has by another name, not yet, or never.

Pure text: an option as people type it, and the rest of the sentence behind it. What is a setting of ours,
under whatever spelling, is not here but in the tree; nor is what uvicorn has and we hand on to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final


def _all(words: str, text: str) -> Iterator[tuple[str, str]]:
    for word in words.split():
        yield word, text


def _not_yet(what: str, meanwhile: str = "") -> str:
    return f"not yet: {what}" + (f"; meanwhile {meanwhile}" if meanwhile else "")


_NOT_YET: Final = {
    **dict(
        _all(
            "--cron-restart",
            _not_yet("nothing is done by the clock", "HUP from a timer replaces all workers without a pause"),
        )
    ),
    **dict(
        _all(
            "--capture-output --output --error",
            _not_yet("what the application prints stays its own", "redirect that: >>FILE 2>&1"),
        )
    ),
    **dict(
        _all(
            "--logger-class --log-date-format",
            _not_yet(
                "everycore's own log has two formats (--log-format)", "--log-config is for the workers'"
            ),
        )
    ),
    **dict(
        _all(
            "--log-syslog-to --log-syslog --log-syslog-prefix --log-syslog-facility"
            " --disable-redirect-access-to-syslog",
            _not_yet("there is no syslog", "a handler in --log-config, or systemd, which keeps stderr"),
        )
    ),
    **dict(
        _all(
            "--statsd-host --statsd-prefix --dogstatsd-tags",
            _not_yet("there is no statsd", "--metrics HOST:PORT is for Prometheus"),
        )
    ),
    "--enable-backlog-metric": "leave it out; --metrics HOST:PORT has everycore_listener_backlog",
    **dict(_all("--metrics-address --metrics-port", "the option is --metrics HOST:PORT here")),
    "--metrics-scrape-interval": "leave it out; what --metrics tells is of the moment at which it is asked",
    "--control-socket-mode": "leave it out; the control socket is of its user, and of nobody else",
    "--no-control-socket": "the option is --control off here",
    "--worker-connections": _not_yet("--limit-concurrency answers 503 above a number"),
    "--backpressure": _not_yet("--limit-concurrency answers 503 above a number"),
    "--max-restarts": _not_yet("five ends within a minute make a slot failed; all failed is status 3"),
}

_OURS: Final = {
    **dict(
        _all(
            "-k --worker-class",
            "leave it out; --interface says what APP speaks, --loop on which event loop, --engine by whom",
        )
    ),
    "--initgroups": "leave it out; workers have all groups of --user",
    "--check-config": "type everycore config --check",
    "--print-config": "type everycore config",
    "--workers-lifetime": "the option is --max-lifetime here, in seconds",
    **dict(_all("--workers-max-rss --max-memory-restart", "the option is --max-memory here, as in 300M")),
    **dict(
        _all(
            "--rss-sample-interval --rss-samples",
            "leave it out; --max-memory looks every 10 s, and counts what is so three times in a row",
        )
    ),
    "--timeout-worker-healthcheck": "the option is --stall-kill here, in seconds",
    "--http-parser": "the option is --http here, as uvicorn has it: auto, h11, httptools",
    "--blocking-threads-idle-timeout": "threads stay; --threads is how many",
    "--access-log-fmt": "the option is --access-logformat here, in gunicorn's words",
    **dict(_all("--log --no-log --disable-logs", "the option is --log-level here")),
    "--log-config-json": "the option is --log-config here, which reads .json too",
    "--log-type": "the option is --log-format here: text, json",
    "--debug": "the option is --log-level debug here",
    "--process-name": "the option is --name here, for log lines; the process keeps its title",
    "--namespace": "the option is --name here, for log lines",
    "--url-path-prefix": "the option is --root-path here, as uvicorn has it",
    "--http1-keep-alive": "the option is --timeout-keep-alive here, in seconds",
    "--ssl-client-verify": "the option is --ssl-cert-reqs 2 here, as uvicorn has it",
    "--verify-mode": "the option is --ssl-cert-reqs here: 0, 1 or 2",
    "--instances": "the option is --workers here",
    "-i": "the option is --workers here",
    "--kill-timeout": "the option is --grace here, in seconds",
    "--listen-timeout": "the option is --boot-timeout of everycore serve, in seconds",
    "--parallel": "the option is --surge here",
    "--update-env": "HUP reads --env-file and the settings file again; other variables need a new start",
    "--filter-env": "leave the variable out where the service is started: env -u NAME everycore ...",
    **dict(
        _all(
            "--interpreter --interpreter-args --node-args",
            "start everycore itself by that Python, with its flags: python -X dev -m everycore run ...",
        )
    ),
    "--execute-command": "type everycore run PROGRAM",
    **dict(
        _all("--reload-paths --watch", "the option is --reload here; --reload-dir FOLDER says where to look")
    ),
    **dict(
        _all(
            "--reload-ignore-dirs --reload-ignore-patterns --reload-ignore-paths --ignore-watch",
            "the option is --reload-exclude here, with a pattern or a folder",
        )
    ),
    **dict(_all("--reload-tick --watch-delay", "the option is --reload-delay here, in seconds")),
    "--reload-extra-file": "the option is --reload-include here, with a pattern such as '*.html'",
    "--reload-engine": "leave it out; watchfiles looks after the files",
    "--reload-ignore-worker-failure": "leave it out; --reload waits for the next change then",
    "--wait-ready": "that is always so: hold_ready() of current_worker(), and ready(), say when",
    "--shutdown-with-message": "workers are told by their channel or by SIGTERM, as they can hear it",
    "-v": "type everycore --version",
    "--limit-request-line": "the engine's own limit: --h11-max-incomplete-event-size with --http h11",
    **dict(
        _all(
            "--limit-request-fields --limit-request-field_size --http1-buffer-size",
            "the engine's own limit: --h11-max-incomplete-event-size with --http h11",
        )
    ),
    **dict(_all("--hp --service-name --wait-ip", "systemd starts it: see docs/how-to/under-systemd.md")),
    **dict(
        _all(
            "--dirty-app --dirty-workers --dirty-timeout --dirty-threads --dirty-graceful-timeout",
            "long jobs are workers of their own here: everycore.Pool and Pool.request",
        )
    ),
    "--daemon": "it stays in the foreground; a service manager starts it: systemd, supervisord",
    "-D": "it stays in the foreground; a service manager starts it: systemd, supervisord",
    "--no-daemon": "leave it out; it stays in the foreground",
}

_NEVER: Final = {
    **dict(
        _all(
            "--proxy-protocol --proxy-allow-from",
            "the PROXY protocol is read for the proxies that --trust-proxy-protocol names",
        )
    ),
    **dict(
        _all(
            "--protocol --uwsgi-allow-from",
            "everycore speaks HTTP alone, neither uwsgi nor FastCGI: let the proxy speak HTTP to it",
        )
    ),
    **dict(
        _all(
            "--use-colors --color",
            "everycore writes no colours; a formatter in --log-config may",
        )
    ),
    **dict(
        _all(
            "--no-use-colors --no-color",
            "leave it out; everycore writes no colours",
        )
    ),
    "--reuse-port": "leave it out; one process listens, and hands connections to the workers",
    "--no-sendfile": "leave it out; nothing is sent by sendfile",
    "--worker-tmp-dir": "leave it out; workers have no heartbeat file",
    **dict(_all("-R --enable-stdio-inheritance", "leave it out; workers have the streams of the command")),
    "--merge-logs": "leave it out; all workers write to one stream",
    "--time": "leave it out; each line of the log has its time",
    "--spew": "there is no such tracing; SIGQUIT prints the stacks of every worker",
    **dict(
        _all("--paste --paste-global", "Paste's files are not read: name the application, MODULE:ATTRIBUTE")
    ),
    **dict(
        _all(
            "--suppress-ragged-eofs --do-handshake-on-connect",
            "leave it out; the event loop does the handshakes",
        )
    ),
    **dict(
        _all(
            "--permit-obsolete-folding --strip-header-spaces --permit-unconventional-http-method"
            " --permit-unconventional-http-version --casefold-http-method --forwarder-headers --header-map",
            "gunicorn's own parser has that; here uvicorn's decides, by --http",
        )
    ),
    "--asgi-disconnect-grace-period": "leave it out; the application hears of a disconnect at once",
    **dict(
        _all(
            "--runtime-threads --runtime-blocking-threads --runtime-mode --task-impl",
            "leave it out; no engine here has a Rust runtime; --workers is how many processes",
        )
    ),
    "--http1-header-read-timeout": "uvicorn has no such limit; a proxy in front of it does",
    "--http2-cleartext": "leave it out; --engine hypercorn speaks HTTP/2 to whoever begins with it",
    "--http-protocols": "leave it out; --engine hypercorn speaks HTTP/1.1 and HTTP/2",
    **dict(
        _all(
            "--http2-initial-window-size --http2-adaptive-window --http2-initial-connection-window-size"
            " --http2-initial-stream-window-size --http2-keep-alive-interval --http2-keep-alive-timeout"
            " --http2-max-send-buffer-size",
            "leave it out; HTTP/2 is spoken by hypercorn (--engine), which has no such setting",
        )
    ),
    "--http1-pipeline-flush": "leave it out; uvicorn writes each answer when it is made",
    "--ssl-protocol-min": "uvicorn has --ssl-version alone; TLS 1.2 is the least that Python speaks",
    "--ssl-crl": "uvicorn reads no revocation lists; a proxy in front of it does",
    "--insecure-bind": "an address speaks TLS or not, as all do: start a second service for the other",
    **dict(
        _all(
            "--respawn-failed-workers --respawn-interval --restart-delay --exp-backoff-restart-delay",
            "leave it out; a worker that dies is replaced, after 0.1 s at first and 15 s at most",
        )
    ),
    **dict(
        _all(
            "--no-autorestart --stop-exit-codes",
            "a worker that dies is always replaced; under run, status 0 before it has listened ends it",
        )
    ),
    **dict(
        _all(
            "--static-path-route --static-path-mount --static-path-dir-to-file --static-path-expires",
            "everycore serves no files: the application does, or a proxy in front of it",
        )
    ),
    **dict(
        _all(
            "--ext --mini-list --force --only --sort --attach --write --no-vizion --no-autostart"
            " --no-treekill --source-map-support --no-pmx --no-automation --trace --v8 --event-loop-inspector"
            " --deep-monitoring",
            "PM2's own; leave it out: everycore runs one service in the foreground",
        )
    ),
}

_WAITRESS: Final = {
    "--listen": "the option is --bind here; waitress' *:8080 is :8080",
    "--unix-socket": "the option is --uds here",
    "--unix-socket-perms": "the option is --socket-mode here",
    "--call": "the option is --factory here",
    "--url-prefix": "the option is --root-path here, as uvicorn has it",
    "--url-scheme": "X-Forwarded-Proto says so, of a proxy that is named in --forwarded-allow-ips",
    "--ident": "the options are --no-server-header and --header Server:NAME here",
    "--channel-timeout": "the option is --timeout-keep-alive here, in seconds",
    "--connection-limit": _not_yet("--limit-concurrency answers 503 above a number"),
    "--max-request-header-size": "the engine's own limit: --h11-max-incomplete-event-size with --http h11",
    "--max-request-body-size": "uvicorn has no such limit; a proxy in front of it does, or the application",
    **dict(
        _all(
            "--ipv4 --no-ipv4 --ipv6 --no-ipv6",
            "name the address instead: --bind 0.0.0.0:8000, --bind [::]:8000, or both",
        )
    ),
    **dict(
        _all(
            "--recv-bytes --send-bytes --outbuf-overflow --outbuf-high-watermark --inbuf-overflow"
            " --cleanup-interval --asyncore-loop-timeout --asyncore-use-poll --channel-request-lookahead",
            "leave it out; bodies stream both ways, and the event loop has no such number",
        )
    ),
    **dict(
        _all(
            "--log-socket-errors --no-log-socket-errors --expose-tracebacks --no-expose-tracebacks",
            "leave it out; the log has the traceback of an error, and the client has none",
        )
    ),
    **dict(
        _all(
            "--trusted-proxy --trusted-proxy-count --trusted-proxy-headers"
            " --log-untrusted-proxy-headers --clear-untrusted-proxy-headers",
            "the option is --forwarded-allow-ips here, as uvicorn has it",
        )
    ),
}

#: Every one of them.
ANSWERS: Final[dict[str, str]] = {**_NOT_YET, **_OURS, **_NEVER, **_WAITRESS}

_COMMANDS: Final = {
    **dict(_all("start", "type everycore serve MODULE:APP, or everycore run PROGRAM")),
    **dict(_all("delete kill", "type everycore stop")),
    "restart": "the service manager restarts it; everycore reload replaces all workers without a pause",
    **dict(_all("startOrReload startOrRestart gracefulReload", "type everycore reload")),
    **dict(_all("list ls jlist prettylist describe show pid id", "type everycore status")),
    **dict(_all("monit dashboard imonit sysinfos", "type everycore top, or everycore status")),
    **dict(
        _all(
            "logs flush reloadLogs logrotate", "the log is on stderr, or in --log-file, which USR1 opens anew"
        )
    ),
    "env": "type everycore config",
    "reset": "there are no counts to be reset",
    "sendSignal": "type kill -SIGNAL PID",
    **dict(_all("trigger send attach", "messages are the library's: Worker.send")),
    **dict(
        _all(
            "save resurrect startup unstartup",
            "systemd starts it: see docs/how-to/under-systemd.md",
        )
    ),
    **dict(
        _all(
            "deploy pull forward backward",
            "switch the link to the release and send HUP: docs/how-to/deploy.md",
        )
    ),
    **dict(
        _all("ecosystem init", "write everycore.toml; everycore config --schema says what may stand there")
    ),
    **dict(
        _all("profile:cpu profile:mem inspect", "SIGQUIT prints all stacks; a profiler runs in the program")
    ),
    **dict(_all("report ping update", "there is no daemon to be asked")),
    **dict(_all("link plus unlink install", "everycore has no modules and no service of that kind")),
}


def answer(option: str) -> str | None:
    """The answer to an option; None: nobody has it."""
    return ANSWERS.get(option)


def answer_to_command(word: str) -> str | None:
    """The answer to `everycore WORD`; None: nobody has it."""
    if word.startswith("module:"):
        return _COMMANDS["install"]
    return _COMMANDS.get(word)
