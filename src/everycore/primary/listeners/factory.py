"""Makes listeners: binds or adopts their sockets, and chooses their distribution by the policy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.core.lanes import Lanes
from everycore.core.listeners import ListenKey, Listing
from everycore.core.waits import WaitHistogram
from everycore.errors import ConfigurationError
from everycore.primary.listeners.attendance import NoWorker, NoWorkerBehaviour
from everycore.primary.listeners.distribution import Distribution
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.passed import PassedSockets
from everycore.primary.listeners.subscriber import Accepted
from everycore.settings import check_choice, check_proxies, check_seconds
from everycore.system.listeners import BoundSocket, DatagramSocket, StreamListener
from everycore.system.sockets import checked_backlog, off_the_wire

if TYPE_CHECKING:
    from everycore.core.proxies import Proxies

#: The setting that names trusted proxies.
PROXIES: Final = "trust_proxy_protocol"


class DistributionSettings(msgspec.Struct):
    """How connections are distributed: the part of a cluster's settings that concerns listeners.

    recall_after: None stands for the policy's own default. trust_proxy_protocol: the proxies that are
    trusted, under a policy by which the primary accepts. passed: the sockets that a service manager has
    passed to this process. waits: records how long connections wait for their pick-up; None records nothing.

    `policy` may change until the first fork. Raises ConfigurationError.
    """

    policy: str = "round_robin"
    when_no_worker: NoWorker = "refuse"
    hold_timeout: float = 30.0
    recall_after: float | None = None
    trust_proxy_protocol: Sequence[str] = ()
    passed: PassedSockets = msgspec.field(default_factory=PassedSockets)
    waits: WaitHistogram | None = None

    def __post_init__(self) -> None:
        check_choice("when_no_worker", self.when_no_worker, ("refuse", "hold"))
        self.hold_timeout = check_seconds("hold_timeout", self.hold_timeout)
        if self.recall_after is not None:
            self.recall_after = check_seconds("recall_after", self.recall_after)
        check_proxies(PROXIES, self.trust_proxy_protocol)
        self.check_policy(self.policy)

    def check_policy(self, policy: str) -> None:
        """Raise ConfigurationError for a policy that the other settings rule out."""
        if self.trust_proxy_protocol and policy == "shared":
            problem = "needs a policy by which the primary accepts: round_robin or sticky, not shared"
            raise ConfigurationError(PROXIES, problem)


class ListenerFactory:
    """Makes the listeners of one cluster.

    internal: the descriptors on which workers must not listen. on_closed: as in `Listener`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: DistributionSettings,
        internal: Callable[[], Iterator[int]],
        on_closed: Callable[[Listener, int], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._internal = internal
        self._on_closed = on_closed
        self._proxies: Proxies | None = None
        if settings.trust_proxy_protocol:
            from everycore.core.proxies import Proxies  # late: few trust a proxy

            self._proxies = Proxies(settings.trust_proxy_protocol)

    def bound(self, key: ListenKey, request: wire.Listen, *, user: int | None) -> BoundSocket:
        """The socket for the requested address or descriptor. Raises OSError; its text names the address.

        user: as in `BoundSocket`.
        """
        made: type[BoundSocket] = StreamListener if key.kind == socket.SOCK_STREAM else DatagramSocket
        backlog = checked_backlog(request.backlog)
        if key.fd is not None:
            return made.adopted(key.fd, backlog=backlog, internal=set(self._internal()))
        passed = self._settings.passed
        taken = passed.take(key, made, v6only=request.v6only, backlog=backlog, mode=request.mode, user=user)
        if taken is not None:
            return taken
        sock = made.bound(
            off_the_wire(request.address),
            family=key.family,
            v6only=request.v6only,
            backlog=backlog,
            mode=request.mode,
            user=user,
        )
        return passed.keep(key, sock)

    def make(self, listing: Listing, sock: BoundSocket, *, is_program: bool) -> Listener:
        """The listener `listing`, on `sock`. is_program: an unmodified program asked for it."""
        no_worker = NoWorkerBehaviour(self._settings.when_no_worker, self._settings.hold_timeout)
        distribution = self._distribution(listing.key, sock, is_program=is_program)
        if distribution.dispatcher is not None:
            distribution.dispatcher.lanes.waits = self._settings.waits
        return Listener(self._loop, sock, listing, no_worker, self._on_closed, distribution)

    def _distribution(self, key: ListenKey, sock: BoundSocket, *, is_program: bool) -> Distribution:
        """Datagrams are always shared, as in Node: there is no connection to hand over.

        A client on a unix socket has no address for `sticky`, unless a proxy names one: such connections are
        distributed in turn.
        """
        policy, recall_after = self._settings.policy, self._settings.recall_after
        if key.kind != socket.SOCK_STREAM or (policy == "shared" and not is_program):
            from everycore.primary.listeners.shared import SharedDistribution  # late: of one policy alone

            return SharedDistribution(self._loop, sock)
        has_addresses = sock.family != socket.AF_UNIX or bool(self._proxies and self._proxies.have_no_address)
        if policy == "sticky" and has_addresses:
            from everycore.primary.listeners.sticky import StickyDistributor  # late, as above

            return StickyDistributor(self._loop, sock, recall_after, self._proxies)
        lanes = Lanes() if recall_after is None else Lanes(recall_after=recall_after)
        distributor = Distributor(self._loop, sock, Dispatcher[Accepted](lanes), self._proxies)
        if policy == "shared":
            from everycore.primary.listeners.either import EitherDistribution  # late, as above
            from everycore.primary.listeners.shared import SharedDistribution

            return EitherDistribution(SharedDistribution(self._loop, sock), distributor)
        return distributor
