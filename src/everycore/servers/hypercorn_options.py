"""The options of `--engine hypercorn`: those that uvicorn has too, by uvicorn's names, and its own.

A table maps everycore's names to those of hypercorn's `Config`. uvicorn's other options are refused, with the
reason. Invariant: hypercorn itself is not imported. The table describes version 0.17 and later.

everycore itself implements some of uvicorn's options here (`servers.manners`): hypercorn trusts a number of
proxies where uvicorn trusts addresses, it leaves `path` without the root path, and it can't limit the number
of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycore.config.kinds import Count, Kind, Path, Seconds, Several, Switch, Text
from everycore.config.setting import EngineField, Field, Setting
from everycore.errors import ConfigurationError
from everycore.servers.engine_arguments import HEADERS
from everycore.servers.engine_options import ALSO, SECRET, HeaderText

SECTION: Final = "Engine: hypercorn's further options"
#: The smallest and the largest frame size that RFC 9113 allows.
_LEAST_FRAME, _MOST_FRAME = 2**14, 2**24 - 1

#: Attributes of `Config` for uvicorn's parameters.
_SAME: Final = {
    "ws_max_size": "websocket_max_message_size",
    "ws_ping_interval": "websocket_ping_interval",
    "server_header": "include_server_header",
    "date_header": "include_date_header",
    "timeout_keep_alive": "keep_alive_timeout",
    "ssl_keyfile": "keyfile",
    "ssl_certfile": "certfile",
    "ssl_keyfile_password": "keyfile_password",
    "ssl_cert_reqs": "verify_mode",
    "ssl_ca_certs": "ca_certs",
    "ssl_ciphers": "ciphers",
    "h11_max_incomplete_event_size": "h11_max_incomplete_size",
}
#: The options of uvicorn that everycore implements itself.
MANNERS: Final = frozenset({"proxy_headers", "forwarded_allow_ips", "root_path", "limit_concurrency"})
#: The option for the addresses of datagram sockets, which are opened as those of `--bind` are.
QUIC: Final = "quic_bind"
#: Options of which hypercorn supports `auto` alone, and the meaning of that.
_AUTO: Final = {"http": "h11, or h2 if the client wants it", "ws": "wsproto"}
#: Why hypercorn has no such option.
_LACKS: Final = {
    "http2": "leave it out: it speaks HTTP/2 with every client that wants it",
    "ws_max_queue": "it has no such queue",
    "ws_ping_timeout": "it does not wait for answers to pings; --ws-ping-interval is there",
    "ws_per_message_deflate": "it compresses if the client offers that",
    "ssl_version": "it speaks TLS 1.2 and later",
    "reset_contextvars": "each request has a context of its own",
}


#: Name, kind and help of the options that uvicorn has too. They are used if uvicorn is not installed.
_SHARED: Final[dict[str, tuple[str, Kind, str]]] = {
    "ws_max_size": ("", Count(0), "WebSocket: most bytes in a message."),
    "ws_ping_interval": ("", Seconds(), "WebSocket: how often to ping."),
    "proxy_headers": ("", Switch(), "Believe X-Forwarded-Proto and X-Forwarded-For of a trusted proxy."),
    "server_header": ("", Switch(), "Send a Server header."),
    "date_header": ("", Switch(), "Send a Date header."),
    "forwarded_allow_ips": ("", Text(), "Proxies to trust: addresses, networks, or *; with commas."),
    "root_path": ("", Text(), "ASGI's root_path."),
    "limit_concurrency": ("", Count(0), "Most requests at once; further ones are answered 503."),
    "timeout_keep_alive": ("", Seconds(), "How long an idle connection is kept."),
    "ssl_keyfile": ("", Path("FILE"), "TLS: the key."),
    "ssl_certfile": ("", Path("FILE"), "TLS: the certificate."),
    "ssl_keyfile_password": ("", Text(), "TLS: the password of the key."),
    "ssl_cert_reqs": ("", Count(0, most=2), "TLS: whether a client needs a certificate: 0, 1 or 2."),
    "ssl_ca_certs": ("", Path("FILE"), "TLS: the authorities of clients' certificates."),
    "ssl_ciphers": ("", Text(), "TLS: the ciphers, as OpenSSL names them."),
    HEADERS: ("header", Several(HeaderText("NAME:VALUE")), "A header of every answer; may be repeated."),
    "h11_max_incomplete_event_size": ("", Count(0), "HTTP/1.1: most bytes of a head."),
}
#: The options of hypercorn alone. Its command has the first two and the last one, its `Config` has all.
_OWN: Final[dict[str, tuple[str, Kind, str]]] = {
    "read_timeout": ("", Seconds(), "Close a connection that sends nothing for this long."),
    "server_names": (
        "server_name",
        Several(Text()),
        "A host to serve; other hosts get 404; may be repeated.",
    ),
    "h2_max_concurrent_streams": ("", Count(1), "HTTP/2: requests of a connection at once."),
    "h2_max_header_list_size": ("", Count(1), "HTTP/2: most bytes of a head."),
    "h2_max_inbound_frame_size": (
        "",
        Count(_LEAST_FRAME, most=_MOST_FRAME),
        "HTTP/2: most bytes of a frame.",
    ),
    QUIC: (
        "",
        Several(Text("ADDRESS")),
        "HTTP/3: HOST:PORT of UDP, beside --bind; needs TLS, --workers 1 and --surge 0.",
    ),
}
#: The names that gunicorn and granian have for the same options.
_ALSO: Final = ALSO | {
    "h2_max_concurrent_streams": ("--http2-max-concurrent-streams",),
    "h2_max_header_list_size": ("--http2-max-header-list-size", "--http2-max-headers-size"),
    "h2_max_inbound_frame_size": ("--http2-max-frame-size",),
}


def hypercorn_fields(known: frozenset[str]) -> tuple[Field, ...]:
    """All options of hypercorn, except those whose names are `known` from uvicorn."""
    fields = [
        EngineField(
            parameter,
            name or parameter,
            Setting(kind, text, SECTION, also=_ALSO.get(parameter, ()), is_secret=parameter in SECRET),
        )
        for parameter, (name, kind, text) in (_SHARED | _OWN).items()
    ]
    return tuple(field for field in fields if field.name not in known)


def is_hypercorns_own(field: Field) -> bool:
    """Whether uvicorn has no such option."""
    return isinstance(field, EngineField) and field.parameter in _OWN


def check_option(engine: str, option: str, parameter: str, value: Any) -> None:
    """Raise ConfigurationError if `engine` does not have the option."""
    if engine == "uvicorn":
        if parameter in _OWN:
            raise ConfigurationError(option, "uvicorn has no such option; --engine hypercorn has it")
    elif parameter in _AUTO:
        if value != "auto":
            raise ConfigurationError(option, f"hypercorn has no such choice: it uses {_AUTO[parameter]}")
    elif parameter not in _SHARED | _OWN:
        why = _LACKS.get(parameter, "--engine uvicorn has it")
        raise ConfigurationError(option, f"hypercorn has no such option: {why}")


def attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of hypercorn's `Config` for values that go by the names of everycore's options."""
    found = {_SAME[name]: value for name, value in values.items() if name in _SAME}
    found |= {name: value for name, value in values.items() if name in _OWN and name != QUIC}
    if "certfile" in found:
        found.setdefault("keyfile", found["certfile"])  # one file may hold both; hypercorn needs two names
    if "server_names" in found:
        found["server_names"] = list(found["server_names"])
    return found
