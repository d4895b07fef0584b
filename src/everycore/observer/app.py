"""The ASGI application of the observer: `/metrics`, `/live`, `/ready`.

Invariant: every request is answered within little more than `line.TIMEOUT` seconds. If the primary does not
answer, the status is 503: an earlier answer is never repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from everycore.core import control
from everycore.core.control import VERSION, ServiceName, ServiceStatus
from everycore.core.measures import ServiceMetrics
from everycore.errors import ControlError
from everycore.observer.asking import Asked, Asker
from everycore.observer.families import Shares, count_ready, families

log = logging.getLogger("everycore.observer")

_TEXT: Final = "text/plain; charset=utf-8"
_PAGES: Final = "/metrics, /live, /ready"

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Page(msgspec.Struct, frozen=True):
    """An answer to a request."""

    status: int
    body: bytes
    content_type: str = _TEXT
    allow: str | None = None


class ObserverApp:
    """Answers with what the primary says. min_ready: how many workers must be ready for /ready to say yes."""

    def __init__(self, line: Asker, min_ready: int, own: Callable[[], Iterable[Metric]] = lambda: ()) -> None:
        self._name = Asked(line, control.AskHello(v=VERSION), ServiceName)
        self._status = Asked(line, control.AskStatus(v=VERSION), ServiceStatus)
        self._metrics = Asked(line, control.AskMetrics(v=VERSION), ServiceMetrics)
        self._min_ready = min_ready
        self._shares = Shares()
        #: Returns the metrics that the workers themselves have.
        self._own = own

    async def __call__(self, scope: Mapping[str, Any], _receive: object, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = await self._answer(scope)
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"cache-control", b"no-store"),
        ]
        if answer.allow is not None:
            headers.append((b"allow", answer.allow.encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any]) -> Page:
        pages = {"/metrics": self._tell_metrics, "/live": self._tell_live, "/ready": self._tell_ready}
        page = pages.get(scope["path"])
        if page is None:
            return Page(404, f"the pages are {_PAGES}\n".encode())
        if scope["method"] not in ("GET", "HEAD"):
            return Page(405, b"GET or HEAD\n", allow="GET, HEAD")
        try:
            return await page(scope)
        except ControlError as error:
            return Page(503, f"{error.text}\n".encode())
        except Exception:
            log.exception("%s failed", scope["path"])
            return Page(500, b"the observer has failed; the log says how\n")

    async def _tell_live(self, _: Mapping[str, Any]) -> Page:
        name = await self._name.now()
        return Page(200, f"live: {name.name} (pid {name.pid})\n".encode())

    async def _tell_ready(self, _: Mapping[str, Any]) -> Page:
        status = await self._status.now()
        ready = count_ready(status)
        if status.state == "stopping":
            return Page(503, b"not ready: the service is being stopped\n")
        counts = f"{ready} of {status.size} workers are ready"
        if ready < self._min_ready:
            return Page(503, f"not ready: {counts}, {self._min_ready} must be\n".encode())
        return Page(200, f"ready: {counts}\n".encode())

    async def _tell_metrics(self, scope: Mapping[str, Any]) -> Page:
        metrics = await self._metrics.now()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Found([*families(metrics, self._shares), *self._own()]))
        encode, content_type = _encoder_for(_accept_of(scope))
        return Page(200, encode(registry), content_type)


class _Found:
    """A collector of metrics that were already found."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        yield from self._found

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: there is no other collector whose names could clash."""
        return ()


def _encoder_for(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """The encoder for an `Accept` header. A version in it that is not a number makes the library raise."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def _accept_of(scope: Mapping[str, Any]) -> str:
    words = [value for name, value in scope["headers"] if name == b"accept"]
    return b",".join(words).decode("latin-1")
