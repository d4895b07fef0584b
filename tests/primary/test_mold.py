"""A mold that sends messages without end."""

import asyncio
from typing import Any

from everycore import Settings
from everycore.core.mold_wire import MoldHasAnswered, encode
from everycore.primary.mold import READS_A_TURN, Mold
from everycore.system import molding


async def test_others_have_their_turn():
    nobody: Any = None
    mold = Mold(asyncio.get_running_loop(), nobody, nobody, 1, Settings(exec="program.py"), nobody)
    ours, theirs = molding.make_signed_pair()
    heard = []
    mold._socket = ours
    mold._hear = lambda said, pid, uid: heard.append(said)  # type: ignore[method-assign]
    with ours, theirs:
        for _ in range(3 * READS_A_TURN):
            theirs.send(encode(MoldHasAnswered()))
        mold._on_readable()
        assert len(heard) == READS_A_TURN
