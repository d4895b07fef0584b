"""The control protocol: what a primary is asked on its control socket, and what it answers.

Lines of JSON, each an object. A request has `v`, the version, and `op`; it has one reply. With `follow` the
events that happen meanwhile come before the reply, a line each. docs/reference/control.md is the reference.

Invariant: pure; whatever bytes come, `read_request` returns a request or raises a ControlError, whose text is
one sentence.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from everycore.errors import ControlError
from everycore.settings import MOST_WORKERS

#: Rises with a change that an older tool or service would misunderstand.
VERSION: Final = 1
#: Bytes of a request, and of what one client may leave unread, at most.
MOST_REQUEST: Final = 64 * 1024
MOST_UNREAD: Final = 1024 * 1024
#: Clients of one service at a time.
MOST_CLIENTS: Final = 64
#: Events that a service remembers.
MOST_EVENTS: Final = 512
#: Of a text that somebody else has made, as far as it is repeated.
_MOST_TEXT: Final = 200

# --- requests -----------------------------------------------------------------------------------------------


class ControlRequest(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True, omit_defaults=True
):
    """What all requests have. follow: tell the events that happen until the reply."""

    v: int
    follow: bool = False


class AskHello(ControlRequest, frozen=True, kw_only=True, tag="hello"):
    """Who are you? The reply is a `ServiceName`."""


class AskStatus(ControlRequest, frozen=True, kw_only=True, tag="status"):
    """The reply is a `ServiceStatus`."""


class AskMetrics(ControlRequest, frozen=True, kw_only=True, tag="metrics"):
    """The reply is a `core.measures.ServiceMetrics`: what the observer asks for."""


class AskEvents(ControlRequest, frozen=True, kw_only=True, tag="events"):
    """The last events. With `follow`, they and all later ones come as lines; the reply is the end."""


class OrderReload(ControlRequest, frozen=True, kw_only=True, tag="reload"):
    """Replace all workers. The reply comes when all are new, or cannot be."""


class OrderScale(ControlRequest, frozen=True, kw_only=True, tag="scale"):
    """So many workers from now on (`to`), or so many more (`by`; below 0: fewer). One of both."""

    to: int | None = None
    by: int | None = None


class OrderDrain(ControlRequest, frozen=True, kw_only=True, tag="drain"):
    """Let a worker finish its work and leave. The reply comes when it is gone."""

    worker: int


class OrderStop(ControlRequest, frozen=True, kw_only=True, tag="stop"):
    """Stop the service, as SIGTERM does. The reply comes when its workers are gone."""


class AskStacks(ControlRequest, frozen=True, kw_only=True, tag="stacks"):
    """Let a worker, or all, print the stacks of their threads."""

    worker: int | None = None


Request: TypeAlias = (
    AskHello
    | AskStatus
    | AskMetrics
    | AskEvents
    | OrderReload
    | OrderScale
    | OrderDrain
    | OrderStop
    | AskStacks
)
_OPS: Final = tuple(
    sorted(
        str(kind.__struct_config__.tag)
        for kind in (
            AskHello, AskStatus, AskMetrics, AskEvents, OrderReload, OrderScale, OrderDrain, OrderStop,
            AskStacks,
        )
    )
)  # fmt: skip


class _Head(msgspec.Struct):
    """What is looked at before the rest, which a later version may have changed."""

    v: Any = None
    op: Any = None


_head = msgspec.json.Decoder(_Head)
_request = msgspec.json.Decoder(Request)
_encoder = msgspec.json.Encoder()


def read_request(line: bytes) -> Request:
    """The request in a line. Raises ControlError: `bad_request`, or `version`."""
    try:
        head = _head.decode(line)
        if isinstance(head.v, int) and not isinstance(head.v, bool) and head.v != VERSION:
            raise ControlError("version", f"this service speaks version {VERSION}, not {_short(head.v)}")
        if head.v is None or head.op is None:
            raise ControlError("bad_request", "a request has the fields 'v' and 'op'")
        if isinstance(head.op, str) and head.op not in _OPS:
            problem = f"there is no operation {_short(head.op)!r}; the operations are: {', '.join(_OPS)}"
            raise ControlError("bad_request", problem)
        request: Request = _request.decode(line)
        return request
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, msgspec.MsgspecError) else "it cannot be read"
        raise ControlError("bad_request", f"this is not a request: {_short(problem)}") from None


def _short(what: object) -> str:
    text = str(what) if not isinstance(what, int) or abs(what) < 10**18 else "a large number"
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."


# --- what is told -------------------------------------------------------------------------------------------


class ServiceName(msgspec.Struct, frozen=True, kw_only=True):
    """Which service this is. `kind`: `serve`, `run`, or `program` for one that has a `Pool`."""

    name: str
    kind: str
    pid: int
    version: str


class ReloadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The reload that is under way, or the last one. `reason`: why it failed."""

    generation: int
    state: Literal["running", "done", "failed"]
    reason: str


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker. age: seconds. share: of all connections that the workers here were given, from 0 to 1.

    busy: of the last seconds, for which its event loop was busy; None: it has none of ours, or nobody looks.
    rss: bytes of memory that it has, shared pages included; pss: with its part of these, which whoever asks
    fills in. None: not known. stuck: seconds for which it has shown no progress, if its stacks were asked
    for. is_full: it takes no more connections now, for its server is at its limit, or descriptors run short;
    that is not known under the policy shared.
    """

    id: int
    slot: int
    generation: int
    pid: int | None
    state: str
    is_ready: bool
    age: float
    open: int
    handed_over: int
    outstanding: int
    share: float
    rss: int | None
    busy: float | None = None
    pss: int | None = None
    stuck: float | None = None
    is_full: bool = False


class SlotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One slot. restarts: how often its worker has ended unasked; last_end and ended_at: of the last one.

    is_failed: too many have ended too soon, and it is tried again seldom.
    """

    slot: int
    workers: tuple[int, ...]
    is_failed: bool
    restarts: int
    last_end: str | None
    ended_at: float | None


class MoldStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One mold (`--preload`). workers: how many it has made."""

    pid: int
    state: Literal["preparing", "serving", "ending"]
    workers: int
    rss: int | None


class ListenerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One listener. queued: connections that the primary holds and has not handed over.

    waiting: connections in the kernel's backlog; None: not known, as of a unix socket.
    """

    address: str
    policy: str
    accepted: int
    queued: int
    waiting: int | None = None


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one moment. Times are seconds; `started_at` and `ended_at` since the epoch.

    size: how many workers there should be.
    """

    name: str
    kind: str
    pid: int
    version: str
    state: Literal["starting", "running", "stopping"]
    started_at: float
    uptime: float
    size: int
    generation: int
    reload: ReloadStatus | None
    workers: tuple[WorkerStatus, ...]
    slots: tuple[SlotStatus, ...]
    listeners: tuple[ListenerStatus, ...]
    molds: tuple[MoldStatus, ...] = ()


class ControlEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that has happened. `seq` counts up from 1; `at` is in seconds since the epoch.

    event: `forked`, `online`, `listening`, `ready`, `stalled`, `recycled`, `disconnected`, `exited`,
        `reload_began`, `reload_ended`; later versions may have more.
    text: an address, how a worker ended, why it is replaced, why a reload failed.
    """

    seq: int
    at: float
    event: str
    worker: int | None = None
    slot: int | None = None
    generation: int | None = None
    pid: int | None = None
    voluntary: bool | None = None
    text: str | None = None


class DrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has left. status: how it ended."""

    worker: int
    status: str


class ScaleResult(msgspec.Struct, frozen=True, kw_only=True):
    """The workers are as many as was asked for. before: as many there were."""

    size: int
    before: int


class ReloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """All workers are of this generation."""

    generation: int


class StacksOf(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was asked for its stacks. printed_to: a file, or its stderr; problem: why it was not."""

    worker: int
    pid: int | None
    printed_to: str | None = None
    problem: str | None = None


class StacksResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where the stacks are."""

    workers: tuple[StacksOf, ...]


class EventsResult(msgspec.Struct, frozen=True, kw_only=True):
    """The events that the service remembers, the oldest first."""

    events: tuple[ControlEvent, ...]


def reply_line(result: object) -> bytes:
    """The reply to a request that was done."""
    return _encoder.encode({"v": VERSION, "ok": True, "result": result}) + b"\n"


def refusal_line(error: ControlError) -> bytes:
    """The reply to one that was not, or has failed."""
    problem = {"kind": error.kind, "text": error.text.encode("utf-8", "backslashreplace").decode()}
    return _encoder.encode({"v": VERSION, "ok": False, "error": problem}) + b"\n"


def event_line(event: ControlEvent) -> bytes:
    """An event, for who follows."""
    return _encoder.encode({"v": VERSION, "event": event}) + b"\n"


# --- the other side -----------------------------------------------------------------------------------------


class Problem(msgspec.Struct, frozen=True):
    """Why a request was not done."""

    kind: str
    text: str


class ControlAnswer(msgspec.Struct, frozen=True):
    """A line that a service has sent: an event, or the reply."""

    v: int
    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Problem | None = None
    event: ControlEvent | None = None


_answer = msgspec.json.Decoder(ControlAnswer)


def read_answer(line: bytes) -> ControlAnswer:
    """What a service has sent. Raises ControlError."""
    try:
        answer = _answer.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ControlError("bad_answer", "what answers there is no service of everycore") from None
    if answer.v != VERSION:
        raise ControlError("version", f"this tool speaks version {VERSION}, the service {answer.v}")
    return answer


def request_line(request: Request) -> bytes:
    """A request, as it is sent."""
    return _encoder.encode(request) + b"\n"


# --- decisions ----------------------------------------------------------------------------------------------


def size_after(request: OrderScale, size: int) -> int:
    """How many workers are wanted. Raises ControlError for what cannot be."""
    if (request.to is None) == (request.by is None):
        raise ControlError("bad_request", "scale takes one of 'to' and 'by'")
    wanted = request.to if request.to is not None else size + (request.by or 0)
    if not 1 <= wanted <= MOST_WORKERS:
        problem = f"there are from 1 to {MOST_WORKERS} workers, not {_short(wanted)}"
        raise ControlError("bad_request", f"{problem}; there are {size} now" if request.by else problem)
    return wanted
