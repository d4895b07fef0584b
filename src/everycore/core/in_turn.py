"""Inputs of a decision, one after the other.

Invariant: an input that is told while another one is handled waits until that one is done with. So whatever
is decided for an input is performed before the next decision is made. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InTurn(Generic[T]):
    """Calls `handle` with each input that is told."""

    def __init__(self, handle: Callable[[T], object]) -> None:
        self._handle = handle
        self._inputs: deque[T] = deque()
        self._is_busy = False

    def tell(self, given: T) -> None:
        """Handle `given`, and all that is told meanwhile.

        Raises what `handle` raises; the inputs behind that one then wait for the next call.
        """
        self._inputs.append(given)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._inputs:
                self._handle(self._inputs.popleft())
        finally:
            self._is_busy = False

    def clear(self) -> None:
        """Forget the inputs that wait."""
        self._inputs.clear()
