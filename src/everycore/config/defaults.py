"""Defaults that a worker needs too and imports without the tree of settings."""

from typing import Final

HOST: Final = "127.0.0.1"
PORT: Final = 8000
