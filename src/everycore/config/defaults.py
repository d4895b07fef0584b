"""Defaults that a worker needs too, and that it imports without the tree."""

from typing import Final

HOST: Final = "127.0.0.1"
PORT: Final = 8000
