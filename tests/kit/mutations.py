"""What strangers may send to the servers that answer for a service: requests that are damaged, or sound.

The choices come from a `random.Random`, so a failure can be repeated.
"""

import json
import random
from typing import Final

_OPS: Final = ("status", "events", "reload", "scale", "drain", "stop", "stacks", "hello", "x")
_VALUES: Final[tuple[object, ...]] = (1, -1, 0, 2**70, 1.5, None, True, "a", "\udc80", [], {}, "x" * 300)
_HTTP: Final = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
)


def control_request(chance: random.Random) -> bytes:
    """A line for the control socket: damaged, or arbitrary bytes. It may be an order."""
    fields: dict[str, object] = {"v": 1, "op": chance.choice(_OPS)}
    for _ in range(chance.randrange(4)):
        fields[chance.choice(["v", "op", "worker", "to", "by", "follow", "z"])] = chance.choice(_VALUES)
    data = bytearray(json.dumps(fields).encode("utf-8", "surrogatepass"))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
    return bytes(data)


def http_request(chance: random.Random) -> bytes:
    """A request to the observer with an error in it, or arbitrary bytes."""
    # Metrics cost the observer much time, and are read by the same code.
    data = bytearray(_HTTP[0] if chance.randrange(20) == 0 else chance.choice(_HTTP[1:]))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.choice([1, 8, 300]))
            case 3:
                data[at:at] = data[:at]
            case 4:
                data[:] = chance.randbytes(chance.randrange(1, 200))
        if not data:
            break
    return bytes(data)
