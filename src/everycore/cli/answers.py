"""The answers to options of other servers: here it has another name, does not exist yet, or never will.

This module is pure text: an option as people type it, and the end of the sentence about it. It has no line
for a spelling that the tree of settings knows, nor for an option of uvicorn, which uvicorn is given.
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
            _not_yet("nothing runs by the clock", "HUP from a timer replaces all workers without a pause"),
        )
    ),
    **dict(
        _all(
            "--capture-output --output --error",
            _not_yet("what the application prints is not captured", "redirect it: >>FILE 2>&1"),
        )
    ),
    **dict(
        _all(
            "--logger-class --log-date-format",
            _not_yet(
                "everycore's own log has two formats (--log-format)", "--log-config sets up the workers' log"
            ),
        )
    ),
    **dict(
        _all(
            "--log-syslog-to --log-syslog --log-syslog-prefix --log-syslog-facility"
            " --disable-redirect-access-to-syslog",
            _not_yet("nothing goes to syslog", "use a handler in --log-config, or let systemd keep stderr"),
        )
    ),
    **dict(
        _all(
            "--statsd-host --statsd-prefix --dogstatsd-tags",
            _not_yet("nothing is sent to statsd", "--metrics HOST:PORT answers Prometheus"),
        )
    ),
    "--enable-backlog-metric": "leave it out; --metrics HOST:PORT has everycore_listener_backlog",
    **dict(_all("--metrics-address --metrics-port", "the option is --metrics HOST:PORT here")),
    "--metrics-scrape-interval": "leave it out; --metrics measures at the moment of each scrape",
    "--control-socket-mode": "leave it out; only the user of the primary can open the control socket",
    "--no-control-socket": "the option is --control off here",
    "--worker-connections": _not_yet("--limit-concurrency answers 503 above a number"),
    "--backpressure": _not_yet("--limit-concurrency answers 503 above a number"),
    "--max-restarts": _not_yet("a slot fails after five exits in a minute, and the service once all have"),
}

_OURS: Final = {
    **dict(
        _all(
            "-k --worker-class",
            "leave it out; --interface, --loop and --engine say what APP speaks, and what it runs on",
        )
    ),
    "--initgroups": "leave it out; workers always have all groups of --user",
    "--check-config": "type everycore config --check",
    "--print-config": "type everycore config",
    "--workers-lifetime": "the option is --max-lifetime here, in seconds",
    **dict(_all("--workers-max-rss --max-memory-restart", "the option is --max-memory here, as in 300M")),
    **dict(
        _all(
            "--rss-sample-interval --rss-samples",
            "leave it out; --max-memory measures every 10 s and acts on the third excess in a row",
        )
    ),
    "--timeout-worker-healthcheck": "the option is --stall-kill here, in seconds",
    "--http-parser": "the option is --http here, as uvicorn has it: auto, h11, httptools",
    "--blocking-threads-idle-timeout": "leave it out; idle threads stay; --threads is how many",
    "--access-log-fmt": "the option is --access-logformat here, with gunicorn's fields",
    **dict(_all("--log --no-log --disable-logs", "the option is --log-level here")),
    "--log-config-json": "the option is --log-config here, which reads .json too",
    "--log-type": "the option is --log-format here: text, json",
    "--debug": "the option is --log-level debug here",
    "--process-name": "the option is --name here; log lines show it, and the process title does not change",
    "--namespace": "the option is --name here; log lines show it",
    "--url-path-prefix": "the option is --root-path here, as uvicorn has it",
    "--http1-keep-alive": "the option is --timeout-keep-alive here, in seconds",
    "--ssl-client-verify": "the option is --ssl-cert-reqs 2 here, as uvicorn has it",
    "--verify-mode": "the option is --ssl-cert-reqs here: 0, 1 or 2",
    "--instances": "the option is --workers here",
    "-i": "the option is --workers here",
    "--kill-timeout": "the option is --grace here, in seconds",
    "--listen-timeout": "the option is --boot-timeout of everycore serve, in seconds",
    "--parallel": "the option is --surge here",
    "--update-env": "HUP reads --env-file and the settings file again; other variables need a restart",
    "--filter-env": "remove the variable where the service is started: env -u NAME everycore ...",
    **dict(
        _all(
            "--interpreter --interpreter-args --node-args",
            "start everycore with that Python and its flags: python -X dev -m everycore run ...",
        )
    ),
    "--execute-command": "type everycore run PROGRAM",
    **dict(
        _all("--reload-paths --watch", "the option is --reload here; --reload-dir FOLDER says what to watch")
    ),
    **dict(
        _all(
            "--reload-ignore-dirs --reload-ignore-patterns --reload-ignore-paths --ignore-watch",
            "the option is --reload-exclude here, with a pattern or a folder",
        )
    ),
    **dict(_all("--reload-tick --watch-delay", "the option is --reload-delay here, in seconds")),
    "--reload-extra-file": "the option is --reload-include here, with a pattern such as '*.html'",
    "--reload-engine": "leave it out; watchfiles watches the files",
    "--reload-ignore-worker-failure": "leave it out; --reload then waits for the next change",
    "--wait-ready": "a worker always can: hold_ready() and ready() of current_worker() say when it is ready",
    "--shutdown-with-message": "leave it out; a worker is told by its channel, or by SIGTERM",
    "-v": "type everycore --version",
    "--limit-request-line": "the engine has its own: --h11-max-incomplete-event-size with --http h11",
    **dict(
        _all(
            "--limit-request-fields --limit-request-field_size --http1-buffer-size",
            "the engine has its own: --h11-max-incomplete-event-size with --http h11",
        )
    ),
    **dict(_all("--hp --service-name --wait-ip", "systemd starts the service: docs/how-to/under-systemd.md")),
    **dict(
        _all(
            "--dirty-app --dirty-workers --dirty-timeout --dirty-threads --dirty-graceful-timeout",
            "a long job is a worker of its own here: everycore.Pool and Pool.request",
        )
    ),
    "--daemon": "everycore stays in the foreground; a service manager starts it: systemd, supervisord",
    "-D": "everycore stays in the foreground; a service manager starts it: systemd, supervisord",
    "--no-daemon": "leave it out; everycore stays in the foreground",
}

_NEVER: Final = {
    **dict(
        _all(
            "--proxy-protocol --proxy-allow-from",
            "the option is --trust-proxy-protocol ADDRESSES here: the proxies that send the PROXY protocol",
        )
    ),
    **dict(
        _all(
            "--protocol --uwsgi-allow-from",
            "everycore speaks HTTP only, neither uwsgi nor FastCGI; let the proxy speak HTTP to it",
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
    "--no-sendfile": "leave it out; everycore does not use sendfile",
    "--worker-tmp-dir": "leave it out; workers have no heartbeat file",
    **dict(_all("-R --enable-stdio-inheritance", "leave it out; workers inherit stdout and stderr")),
    "--merge-logs": "leave it out; all workers write to one stream",
    "--time": "leave it out; every log line begins with its time",
    "--spew": "everycore does not trace; SIGQUIT prints the stacks of every worker",
    **dict(
        _all("--paste --paste-global", "everycore reads no Paste files; name the application, MODULE:APP")
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
            "this is an option of gunicorn's parser; here uvicorn's parser decides, which --http selects",
        )
    ),
    "--asgi-disconnect-grace-period": "leave it out; the application is told of a disconnect at once",
    **dict(
        _all(
            "--runtime-threads --runtime-blocking-threads --runtime-mode --task-impl",
            "leave it out; no engine here has a Rust runtime, and --workers is the number of processes",
        )
    ),
    "--http1-header-read-timeout": "uvicorn has no such limit; put a proxy that has one in front of it",
    "--http2-cleartext": "leave it out; --engine hypercorn speaks HTTP/2 if the client begins with it",
    "--http-protocols": "leave it out; --engine hypercorn speaks HTTP/1.1 and HTTP/2",
    **dict(
        _all(
            "--http2-initial-window-size --http2-adaptive-window --http2-initial-connection-window-size"
            " --http2-initial-stream-window-size --http2-keep-alive-interval --http2-keep-alive-timeout"
            " --http2-max-send-buffer-size",
            "leave it out; the engine for HTTP/2 is hypercorn (--engine), which has no such setting",
        )
    ),
    "--http1-pipeline-flush": "leave it out; uvicorn writes each response as soon as it is made",
    "--ssl-protocol-min": "uvicorn only has --ssl-version; Python accepts no TLS older than 1.2",
    "--ssl-crl": "uvicorn reads no revocation lists; put a proxy that does in front of it",
    "--insecure-bind": "all addresses speak TLS, or none does; start a second service for the other",
    **dict(
        _all(
            "--respawn-failed-workers --respawn-interval --restart-delay --exp-backoff-restart-delay",
            "leave it out; a worker that dies is replaced, after 0.1 s at first and 15 s at most",
        )
    ),
    **dict(
        _all(
            "--no-autorestart --stop-exit-codes",
            "a worker that dies is replaced; under run, not if it exits with status 0 before it listens",
        )
    ),
    **dict(
        _all(
            "--static-path-route --static-path-mount --static-path-dir-to-file --static-path-expires",
            "everycore serves no files; let the application do it, or a proxy in front of it",
        )
    ),
    **dict(
        _all(
            "--ext --mini-list --force --only --sort --attach --write --no-vizion --no-autostart"
            " --no-treekill --source-map-support --no-pmx --no-automation --trace --v8 --event-loop-inspector"
            " --deep-monitoring",
            "leave it out; it is about PM2's daemon, and everycore runs one service in the foreground",
        )
    ),
}

_WAITRESS: Final = {
    "--listen": "the option is --bind here; waitress' *:8080 is :8080",
    "--unix-socket": "the option is --uds here",
    "--unix-socket-perms": "the option is --socket-mode here",
    "--call": "the option is --factory here",
    "--url-prefix": "the option is --root-path here, as uvicorn has it",
    "--url-scheme": "leave it out; a proxy named in --forwarded-allow-ips sends X-Forwarded-Proto",
    "--ident": "the options are --no-server-header and --header Server:NAME here",
    "--channel-timeout": "the option is --timeout-keep-alive here, in seconds",
    "--connection-limit": _not_yet("--limit-concurrency answers 503 above a number"),
    "--max-request-header-size": "the engine has its own: --h11-max-incomplete-event-size with --http h11",
    "--max-request-body-size": "uvicorn has no such limit; set one in a proxy, or in the application",
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
            "leave it out; bodies are streamed in both directions, and the event loop has no such setting",
        )
    ),
    **dict(
        _all(
            "--log-socket-errors --no-log-socket-errors --expose-tracebacks --no-expose-tracebacks",
            "leave it out; the traceback of an error goes to the log, never to the client",
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

#: The answer to each option.
ANSWERS: Final[dict[str, str]] = {**_NOT_YET, **_OURS, **_NEVER, **_WAITRESS}

_COMMANDS: Final = {
    **dict(_all("start", "type everycore serve MODULE:APP, or everycore run PROGRAM")),
    **dict(_all("delete kill", "type everycore stop")),
    "restart": "the service manager restarts it; everycore reload replaces all workers without a pause",
    **dict(_all("startOrReload startOrRestart gracefulReload", "type everycore reload")),
    **dict(_all("list ls jlist prettylist describe show pid id", "type everycore status")),
    **dict(_all("monit dashboard imonit sysinfos", "type everycore top, or everycore status")),
    **dict(
        _all("logs flush reloadLogs logrotate", "the log is on stderr, or in --log-file, which USR1 reopens")
    ),
    "env": "type everycore config",
    "reset": "leave it out; there are no counters to reset",
    "sendSignal": "type kill -SIGNAL PID",
    **dict(_all("trigger send attach", "only the library sends messages to workers: Worker.send")),
    **dict(
        _all(
            "save resurrect startup unstartup",
            "systemd starts the service: docs/how-to/under-systemd.md",
        )
    ),
    **dict(
        _all(
            "deploy pull forward backward",
            "point the link to the release and send HUP: docs/how-to/deploy.md",
        )
    ),
    **dict(_all("ecosystem init", "write everycore.toml; everycore config --schema describes its keys")),
    **dict(
        _all("profile:cpu profile:mem inspect", "SIGQUIT prints all stacks; run a profiler in the program")
    ),
    **dict(_all("report ping update", "leave it out; everycore has no daemon")),
    **dict(_all("link plus unlink install", "everycore has no modules, and no monitoring service")),
}


def answer(option: str) -> str | None:
    """The answer to `option`; None if this module has none."""
    return ANSWERS.get(option)


def answer_to_command(word: str) -> str | None:
    """The answer to `everycore WORD`; None if this module has none."""
    if word.startswith("module:"):
        return _COMMANDS["install"]
    return _COMMANDS.get(word)
