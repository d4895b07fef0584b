"""Addresses as people write them, made from what `getsockname()` returns."""

from __future__ import annotations

import os

from everycore.model import Address


def as_url(address: Address, scheme: str = "http") -> str:
    """Return a URL: `http://127.0.0.1:8000`, `http://[::1]:8000`, `unix:/run/app.sock`."""
    if isinstance(address, tuple | list):
        host, port = address[0], address[1]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return f"unix:{os.fsdecode(address)}"
