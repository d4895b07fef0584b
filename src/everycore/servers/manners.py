"""uvicorn's handling of requests around an application, for an engine that differs or lacks it.

It covers proxy headers, the root path, and a limit on concurrent requests, with uvicorn's meaning, so that a
service behaves the same with either engine. Invariant: a header is believed only if the address that sent it
is trusted. Source: uvicorn's `ProxyHeadersMiddleware` and its HTTP protocols (0.54).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any, Final

from everycore.servers.asgi import Asgi, Receive, Scope, Send

#: uvicorn's default.
_TRUSTED: Final = "127.0.0.1,::1"
_VARIABLE: Final = "FORWARDED_ALLOW_IPS"
_SCHEMES: Final = ("http", "https", "ws", "wss")
_BUSY: Final = b"Service Unavailable"
_BUSY_HEADERS: Final = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"19"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The trusted proxies: addresses, networks and other words, separated by commas. `*` trusts all."""

    def __init__(self, text: str) -> None:
        words = {word.strip() for word in text.split(",")} - {""}
        self._is_everybody = "*" in words
        self._networks: list[Network] = []
        self._words: set[str] = set()
        for word in words:
            try:
                self._networks.append(ipaddress.ip_network(word, strict=False))
            except ValueError:  # a name, or an application's word for a unix socket
                self._words.add(word)

    def __contains__(self, host: str | None) -> bool:
        if self._is_everybody:
            return True
        if not host:
            return False
        try:
            address: Address = ipaddress.ip_address(host)
        except ValueError:
            return host in self._words
        return any(address in network for network in self._networks)

    def client(self, chain: str) -> str:
        """The client: the last host of X-Forwarded-For that is not trusted, or else the first host."""
        hosts = [host.strip() for host in chain.split(",")]
        if self._is_everybody:
            return hosts[0]
        return next((host for host in reversed(hosts) if host not in self), hosts[0])


class Manners:
    """An application, served as uvicorn would. `options`: the values of uvicorn's options, by name."""

    def __init__(self, app: Asgi, options: Mapping[str, Any]) -> None:
        self._app = app
        self._root_path: str = options.get("root_path", "")
        allowed = options.get("forwarded_allow_ips") or os.environ.get(_VARIABLE) or _TRUSTED
        self._trusted = TrustedProxies(allowed) if options.get("proxy_headers", True) else None
        self._limit: int | None = options.get("limit_concurrency")
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._trusted is not None and (scope.get("client") or ("",))[0] in self._trusted:
            _believe(scope, self._trusted)
        if self._root_path:
            scope["root_path"] = self._root_path
            scope["path"] = self._root_path + scope["path"]
            scope["raw_path"] = self._root_path.encode() + scope.get("raw_path", b"")
        if self._limit is not None and self._count >= self._limit:
            await _say_busy(scope, send)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


def _believe(scope: Scope, trusted: TrustedProxies) -> None:
    headers = {name: value for name, value in scope["headers"] if name.startswith(b"x-forwarded-")}
    scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").strip()
    if scheme in _SCHEMES:
        scope["scheme"] = scheme.replace("http", "ws") if scope["type"] == "websocket" else scheme
    chain = headers.get(b"x-forwarded-for", b"").decode("latin-1")
    if host := trusted.client(chain):
        scope["client"] = (host, 0)  # the proxy does not send the port


async def _say_busy(scope: Scope, send: Send) -> None:
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": 503, "headers": list(_BUSY_HEADERS)})
    await send({"type": f"{kind}.body", "body": _BUSY})
