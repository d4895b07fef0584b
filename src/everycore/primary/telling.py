"""Warnings about the requests of one worker, limited so that no worker fills the log.

Invariant: each sentence is logged once, and at most `MOST_TOLD` of them are.
"""

from __future__ import annotations

import logging
from typing import Final

from everycore.errors import in_a_line

log = logging.getLogger("everycore.primary")

#: The most different sentences about the requests of one worker.
MOST_TOLD: Final = 16


class Told:
    """The sentences that were logged about the worker of that number."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._sentences: set[str] = set()

    def tell(self, sentence: str) -> None:
        """Log a warning, unless the same sentence was logged before."""
        sentence = in_a_line(sentence)  # it may contain an address that the worker has chosen
        if sentence in self._sentences or len(self._sentences) > MOST_TOLD:
            return
        self._sentences.add(sentence)
        if len(self._sentences) > MOST_TOLD:
            sentence = f"more than {MOST_TOLD} of its requests were refused; further ones are not logged"
        log.warning("worker %d: %s", self._worker, sentence)
