"""What is told of the requests of one worker, so that no worker fills the log.

Invariant: each sentence is told once, and not more than `MOST_TOLD` of them.
"""

from __future__ import annotations

import logging
from typing import Final

from everycore.errors import in_a_line

log = logging.getLogger("everycore.primary")

#: Different sentences about the requests of one worker.
MOST_TOLD: Final = 16


class Told:
    """What was told of the worker of that number."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._sentences: set[str] = set()

    def tell(self, sentence: str) -> None:
        """Warn of it, unless that has been done."""
        sentence = in_a_line(sentence)  # the worker may have chosen an address in it
        if sentence in self._sentences or len(self._sentences) > MOST_TOLD:
            return
        self._sentences.add(sentence)
        if len(self._sentences) > MOST_TOLD:
            sentence = f"more than {MOST_TOLD} of its requests were refused; no more of them are told"
        log.warning("worker %d: %s", self._worker, sentence)
