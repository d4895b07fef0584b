"""The setting that names trusted proxies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from everycore.config.kinds import Several, Text
from everycore.config.sections import WORKERS
from everycore.config.setting import Setting
from everycore.settings import check_proxy


class Addresses(Several):
    """Several addresses. A single option may hold a list with commas, as `--forwarded-allow-ips` does."""

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
        "A proxy, or a network of proxies, whose connections begin with a PROXY header that names the client."
        " unix: those on unix sockets; *: every peer. May be repeated, or a list with commas.",
        WORKERS,
        is_fixed=True,
    ),
]
