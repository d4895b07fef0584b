"""The answer of each program here: its process, and its client. A slow answer takes a second."""

import asyncio
import os
import time


def who(client: object) -> str:
    return f"worker={os.getpid()} client={client};"


def slow(client: object) -> str:
    os.write(1, b"slow\n")  # in one write, since several processes share stdout
    time.sleep(1)
    return who(client)


async def slow_async(client: object) -> str:
    os.write(1, b"slow\n")
    await asyncio.sleep(1)
    return who(client)
