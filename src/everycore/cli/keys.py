"""The answers to keys that the settings file of another server has: hooks, and other names for a setting.

This module is pure text, as `answers` is for options. A key that is also an option of that server, under the
same name (`graceful_timeout`), needs no line here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from everycore.cli.answers import ANSWERS
from everycore.config.setting import Field

#: gunicorn's settings that are not options of its command line, or have another name there.
GUNICORN: Final[Mapping[str, str]] = {
    "access_log_format": "--access-logformat",
    "accesslog": "--access-logfile",
    "control_socket_disable": "--no-control-socket",
    "default_proc_name": "--name",
    "dirty_apps": "--dirty-app",
    "errorlog": "--error-logfile",
    "keepalive": "--keep-alive",
    "logconfig": "--log-config",
    "logconfig_dict": "--log-config-json",
    "logconfig_json": "--log-config-json",
    "limit_request_field_size": "--limit-request-field_size",
    "loglevel": "--log-level",
    "pidfile": "--pid",
    "preload_app": "--preload",
    "proc_name": "--name",
    "proxy_allow_ips": "--proxy-allow-from",
    "raw_env": "--env",
    "raw_paste_global_conf": "--paste-global",
    "reload_extra_files": "--reload-extra-file",
    "sendfile": "--no-sendfile",
    "syslog": "--log-syslog",
    "syslog_addr": "--log-syslog-to",
    "syslog_facility": "--log-syslog-facility",
    "syslog_prefix": "--log-syslog-prefix",
    "uwsgi_allow_ips": "--uwsgi-allow-from",
    "wsgi_app": "APP",
}

_OTHERS: Final[Mapping[str, str]] = {
    # hypercorn
    "application_path": "APP",
    "h11_max_incomplete_size": "--h11-max-incomplete-event-size",
    "include_date_header": "--date-header",
    "include_server_header": "--server-header",
    "keep_alive_timeout": "--keep-alive",
    "pid_path": "--pid",
    "server_names": "--server-name",
    "startup_timeout": "--boot-timeout",
    "use_reloader": "--reload",
    # PM2
    "error_file": "--error",
    "out_file": "--output",
    "script": "APP",
    "max_restarts": "--max-restarts",
}

_PROGRAM: Final = "a program of your own can do it, around everycore.Pool"
_SHUTDOWN: Final = "the application's lifespan shutdown, or atexit, in each worker"
_DIRTY: Final = "a long job is a worker of its own here: everycore.Pool and Pool.request"

#: The hooks of gunicorn.conf.py, and where such code goes here.
HOOKS: Final[Mapping[str, str]] = {
    "on_starting": "leave it to the service manager, which can run a command before: systemd's ExecStartPre=",
    "when_ready": f"the log says when the service is ready; {_PROGRAM}",
    "on_reload": f"leave it to the service manager: systemd's ExecReload=; {_PROGRAM}",
    "pre_fork": "leave it out; with --preload, the application's module runs before the forks",
    "post_fork": "use the lifespan startup; with --preload, everycore.after_fork too",
    "post_worker_init": "use the end of the application's module, or its lifespan startup",
    "worker_int": f"use what a worker runs when it is stopped: {_SHUTDOWN}",
    "worker_abort": "leave it out; the log shows the stacks of a stuck worker (--stall-dump)",
    "worker_exit": f"use what a worker runs at its end: {_SHUTDOWN}",
    "child_exit": f"use {_SHUTDOWN}; {_PROGRAM}, with the event Exited",
    "nworkers_changed": f"the log says so; {_PROGRAM}, with the events Forked and Exited",
    "pre_exec": "not yet: USR2 does not replace the primary; HUP replaces all workers",
    "pre_request": "use a middleware of the application, WSGI or ASGI",
    "post_request": "use a middleware of the application, WSGI or ASGI",
    "on_exit": f"leave it to the service manager: systemd's ExecStopPost=; {_PROGRAM}",
    "ssl_context": "use the options --ssl-certfile, --ssl-keyfile, --ssl-ciphers and so on; there is no hook",
    "on_dirty_starting": _DIRTY,
    "dirty_post_fork": _DIRTY,
    "dirty_worker_init": _DIRTY,
    "dirty_worker_exit": _DIRTY,
}

_TEXTS: Final[Mapping[str, str]] = {
    **HOOKS,
    "secure_scheme_headers": "uvicorn reads X-Forwarded-Proto from the proxies in forwarded-allow-ips",
    "tmp_upload_dir": "leave it out; bodies are not written to files",
    # PM2's ecosystem file
    "apps": "everycore runs one service; give each service a settings file of its own",
    "args": "use the words after the program: everycore run PROGRAM ARGS",
    "exec_mode": "leave it out; it is always a cluster",
    "instance_var": "use EVERYCORE_SLOT, which is that number in the environment of each worker",
}


def answer_to_key(key: str, fields: Iterable[Field]) -> str | None:
    """The answer to an unknown key, which may be written `serve.key`; None if this module has none."""
    name = key.rpartition(".")[2].replace("-", "_")
    option = GUNICORN.get(name) or _OTHERS.get(name) or f"--{name.replace('_', '-')}"
    for field in fields:
        if option == field.option or option in field.setting.also:
            return f"the key is '{field.key}'"
    return _TEXTS.get(name) or ANSWERS.get(option)
