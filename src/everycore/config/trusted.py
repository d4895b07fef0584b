"""The setting that names the proxies whose word counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from everycore.config.kinds import Several, Text
from everycore.config.sections import WORKERS
from everycore.config.setting import Setting
from everycore.settings import check_proxy


class Addresses(Several):
    """Several addresses; one option may have some too, with commas, as `--forwarded-allow-ips` has."""

    def from_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """As `Several.from_texts`."""
        return super().from_texts([part.strip() for text in texts for part in text.split(",")])

    def from_key(self, value: Any) -> tuple[str, ...]:
        """As `Kind.from_key`."""
        return self.from_text(value) if isinstance(value, str) else super().from_key(value)


TrustedProxies: TypeAlias = Annotated[
    tuple[str, ...],
    Setting(
        Addresses(Text("ADDRESS", check_proxy)),
        "A proxy, or a network of them, whose connections begin with a PROXY header, which names the client."
        " unix: those on unix sockets; *: everybody. May be repeated, or a list with commas.",
        WORKERS,
        is_fixed=True,
    ),
]
