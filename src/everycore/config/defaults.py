"""Defaults that a worker needs too, and not the tree with them."""

from typing import Final

HOST: Final = "127.0.0.1"
PORT: Final = 8000
