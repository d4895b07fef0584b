"""What a hostile worker may send, as Python source: for a worker in this process, and for a real one.

A crime uses `send(data, fds=(), sock=raw)`, `raw` and `raw_link` (its channel and link), `frame`, `pack` and
`note` (bytes of the channel), `belt()` (a listener and the worker's end of its belt), `twin(listener)` (the
primary's end of that belt), `pipes(count)` and the other names in `NAMES`.
"""

from everycore.core.frames import NOTE, WIRE
from everycore.core.wire import LINK_NUMBER, VERSION

#: What the crimes use, besides `send`, `raw`, `raw_link`, `belt` and `twin`.
NAMES = f"""
import array, msgspec, os, socket, struct

VERSION = {VERSION}

def body(*message):
    return msgspec.msgpack.encode(list(message))

def frame(*message, fds=0):
    return pack({WIRE}, body(*message), fds)

def pack(kind, data, fds=0):
    return struct.pack("<IBBB", len(data), VERSION, kind, fds) + data

def pipes(count):
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]

def note(value, fds=0):
    return pack({NOTE}, msgspec.msgpack.encode(value), fds)

NOT_UTF8 = b"\\xa1\\xff"
DEEP = b"\\x91" * 4000 + b"\\xc0"

def link_request(name, field):
    '''Its bytes; `field` is encoded already.'''
    return b"\\x92" + msgspec.msgpack.encode(name) + field

def give_back(number, peer):
    '''Its bytes; `peer` is encoded already.'''
    return b"\\x93" + msgspec.msgpack.encode("GiveBack") + msgspec.msgpack.encode(number) + peer
"""

CRIMES = {
    "random bytes": "send(bytes(range(1, 256)))",
    "another version": "send(struct.pack('<IBBB', 1, 99, 0, 0) + b'x')",
    "oversized": "send(struct.pack('<IBBB', 2**31, VERSION, 0, 0))",
    "truncated": "send(note('cut')[:-2]); raw.shutdown(socket.SHUT_WR)",
    "truncated header": "send(b'\\x05\\x00'); raw.shutdown(socket.SHUT_WR)",
    "empty body": "send(pack(0, b''))",
    "no msgpack": "send(pack(0, b'\\xc1\\xc1\\xc1'))",
    "unknown kind": "send(pack(9, b'x'))",
    "a note as an order": "send(frame('Note', b'x'))",
    "unknown type": "send(frame('Surrender', 1))",
    "the primary's own": "send(frame('Disconnect', 1.0))",
    "a field missing": "send(frame('Ask', 1))",
    "a field of another type": "send(frame('Took', 'x', 5))",
    "second Joined": "send(frame('Joined', os.getpid()))",
    "1 declared, 253 carried": "send(note('x', fds=1), pipes(253))",
    "1 declared, none carried": "send(note('x', fds=1))",
    "none declared, 1 carried": "send(note('x'), pipes(1))",
    "253 declared and carried": "send(note('x', fds=253), pipes(253))",
    "two with a note": "send(note('x', fds=2), pipes(2))",
    "one with an order": "send(frame('Attached', fds=1), pipes(1))",
    "in the middle of a frame": "data = note('x' * 100); send(data[:50]); send(data[50:], pipes(1))",
    "more taken than sent": "send(frame('Took', 5, 5))",
    "second Joined, with one": "send(frame('Joined', os.getpid(), fds=1), pipes(1))",
    "listeners without end at once": "send(frame('Listen', 1, ['127.0.0.1', 0], 2, 1, None, 9) * 1000)",
    "one with a request that needs none": (
        f"send({LINK_NUMBER.pack(1)!r} + body('Settle'), pipes(1), sock=raw_link)"
    ),
    "more descriptors than the window": "[send(note('x', fds=1), pipes(1)) for _ in range(65)]",
    "an answer to no request": "send(frame('Answer', 77, b''))",
    "more than the window": "send(note('x') * 1026)",
    "garbage on the link": "send(b'garbage', sock=raw_link)",
    "an unknown request on the link": f"send({LINK_NUMBER.pack(1)!r} + body('Surrender'), sock=raw_link)",
    "garbage on a belt": "l, b = belt(); send(b'garbage', sock=b)",
    "acks for what was never given": "l, b = belt(); send(body('Acked', 999), sock=b)",
    "gives back what was never given": "l, b = belt(); send(body('GiveBack', 999, None), pipes(1), sock=b)",
    "gives back nothing": "l, b = belt(); send(body('GiveBack', 1, None), sock=b)",
    "a descriptor with an ack": "l, b = belt(); send(body('Acked', 0), pipes(1), sock=b)",
    "wants none a message": "l, b = belt(); send(body('Serve', 0), sock=b)",
    "wants too many a message": "l, b = belt(); send(body('Serve', 17), sock=b)",
    "no UTF-8 on a belt": "l, b = belt(); send(give_back(1, NOT_UTF8), pipes(1), sock=b)",
    "nested too deep on a belt": "l, b = belt(); send(give_back(1, DEEP), pipes(1), sock=b)",
    "no address with what it gives back": "l, b = belt(); send(body('GiveBack', 1, {}), pipes(1), sock=b)",
    "a long address with what it gives back": (
        "l, b = belt(); send(body('GiveBack', 1, 'x' * 7000), pipes(1), sock=b)"
    ),
    "no UTF-8 on the link": (
        f"send({LINK_NUMBER.pack(1)!r} + link_request('Bind', NOT_UTF8), sock=raw_link)"
    ),
    "nested too deep on the link": (
        f"send({LINK_NUMBER.pack(1)!r} + link_request('Bind', DEEP), sock=raw_link)"
    ),
    "no UTF-8 on the channel": "send(pack(0, b'\\x92' + msgspec.msgpack.encode('Took') + NOT_UTF8))",
    "nested too deep on the channel": "send(pack(0, b'\\x92' + msgspec.msgpack.encode('Took') + DEEP))",
    "shuts down its belt": "l, b = belt(); b.shutdown(socket.SHUT_RDWR)",
    "shuts down the primary's end": "l, b = belt(); twin(l).shutdown(socket.SHUT_RDWR)",
}

#: What a worker leaves behind as it dies. The primary reads it when the worker is gone, or is leaving.
LEGACIES = {
    "garbage on its belt": "send(b'garbage', pipes(1), sock=b)",
    "no UTF-8 on its belt": "send(give_back(1, NOT_UTF8), pipes(1), sock=b)",
    "garbage on the primary's end": "send(b'garbage', pipes(1), sock=twin(l))",
    "no UTF-8 on the primary's end": (
        "send(b'\\x93' + body('Handover', 1, None)[1:-1] + b'\\x91' + NOT_UTF8, pipes(1), sock=twin(l))"
    ),
    "nested too deep on the primary's end": (
        "send(b'\\x93' + body('Handover', 1, None)[1:-1] + DEEP, pipes(1), sock=twin(l))"
    ),
    "a hand-over of its own": "send(body('Handover', 999, [['1.2.3.4', 5]]), pipes(1), sock=twin(l))",
    "a hand-over without its connection": "send(body('Handover', 999, [['1.2.3.4', 5]]), sock=twin(l))",
    "a word to rest": "send(body('Rest'), pipes(1), sock=twin(l))",
}
