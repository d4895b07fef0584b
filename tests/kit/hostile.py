"""Hostile workers that are real processes: the head of their programs, and attackers of a listener.

An attacker is a worker like the others of a cluster. It holds their listener and accepts no connection: other
workers serve what lies on its belt. It builds its bytes with everycore's own modules, so it keeps up with
them. An attacker that gains "nothing" ends itself with status 0 when it has tried; another one goes on until
it is ended.
"""

from tests.kit.crimes import NAMES
from tests.kit.workers import HEAD

#: Keeps the numbers of its sockets, and joins like any worker. `raw` is its channel, `frame(...)` a frame.
HOSTILE = (
    """\
import json, os, select
ticket = json.loads(os.environ["_EVERYCORE_WORKER"])
"""
    + HEAD
    + NAMES
    + """
raw = socket.socket(fileno=os.dup(ticket["channel"][0]))
raw_link = socket.socket(fileno=os.dup(ticket["link"][0]))

def outlive():
    try:
        poll = select.poll()
        poll.register(raw_link, select.POLLIN)
        poll.poll(30_000)
    finally:
        os._exit(0)


def send(data, fds=(), sock=None):
    sock = sock or raw
    sock.setblocking(True)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)
    sock.setblocking(False)

def belt():
    '''A listener, and the worker's end of its belt.'''
    listener = everycore.listen(("127.0.0.1", 0))
    return listener, socket.socket(fileno=os.dup(listener._voice().fileno()))

def twin(listener):
    '''The primary's end of that belt: what is written there the primary may read as its own.'''
    return socket.socket(fileno=os.dup(listener._twin.fileno()))
"""
)

ATTACKER = (
    HOSTILE
    + """
import select
from everycore import current
from everycore.core import wire
from everycore.core.frames import encode_frame
from everycore.system import board as boards

inside = current.session()

def gains_nothing():
    os._exit(0)

def flood(sock, data, fds=(), times=100_000):
    # Until it is given up, or held.
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    for _ in range(times):
        try:
            sock.sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            select.select([], [sock], [], 0.05)

def granted(address):
    try:
        return everycore.listen(address)
    except OSError as error:
        return error

async def main():
    me = everycore.current_worker()
    await me.send("ready")
    await anext(me.messages())
    l = everycore.listen(("127.0.0.1", int(os.environ["PORT"])))
    voice, end = l._voice(), l._twin
    exec(compile(os.environ["ATTACK"], "attack", "exec"), globals() | locals())
    await for_ever()

everycore.run(main())
"""
)

#: What it does, and the result: "its channel" is lost, or it gains "nothing".
ATTACKS = {
    "nonsense on the board": (
        """
cells = inside._membership.board._cells
for value in (2**63 - 1, -(2**63), -1):
    for at in range(len(cells)):
        cells[at] = value
gains_nothing()
""",
        "nothing",
    ),
    "the laziest of all, by the board": (
        """
cells = inside._membership.board._cells
cells[0] = boards.CAPACITY
for row in range(1, boards.CAPACITY):
    cells[row * boards.ROW + boards.SERVING] = cells[row * boards.ROW + boards.IDLE] = 1
    cells[row * boards.ROW + boards.OPEN] = 0 if row > 8 else 10**15
gains_nothing()
""",
        "nothing",
    ),
    "peers too long for a batch": (
        "flood(voice, give_back(0, msgspec.msgpack.encode('x' * 7000)), pipes(1))",
        "its channel",
    ),
    "gives back without end": ("flood(voice, body('GiveBack', 0, None), pipes(1))", "its channel"),
    "a connection of its own making": (
        """
ours, theirs = socket.socketpair()
send(body("GiveBack", 1, ["6.6.6.6", 666]), [theirs.detach()], sock=voice)
assert ours.recv(100) == b"", "somebody took it for a client"
""",
        "its channel",
    ),
    "text that is none": ("flood(voice, give_back(1, NOT_UTF8), pipes(1))", "its channel"),
    "nested without end": ("flood(voice, give_back(1, DEEP), pipes(1))", "its channel"),
    "shuts its belt down": (
        "socket.socket(fileno=os.dup(voice.fileno())).shutdown(socket.SHUT_RDWR)",
        "its channel",
    ),
    "never reads the answers on the link": (
        "flood(raw_link, wire.LINK_NUMBER.pack(7) + wire.encode(wire.Settle()))",
        "its channel",
    ),
    "listeners without end": (
        """
got = [granted(("127.0.0.1", 0)) for _ in range(300)]
refused = [found for found in got if isinstance(found, OSError)]
assert len(refused) > 40, refused[:1]
reasons = ("256 listeners", "runs as another user")
assert any(reason in str(refused[0]) for reason in reasons), refused[:1]
for found in got:
    found in refused or found.close()
gains_nothing()
""",
        "nothing",
    ),
    "orders without end": (
        "send(encode_frame(wire.encode(wire.Attached())) * 100_000)\ngains_nothing()",
        "nothing",
    ),
    "numbers out of all bounds": (
        """
for request in (
    wire.StartListening(l.grant.listener, 2**62),
    wire.SetOption(l.grant.listener, 2**31, -1, bytes(4000)),
    wire.Listen(request=0, address=b"/nowhere\\xff/x", family=1, kind=1, backlog=-1),
    wire.Listen(request=0, address=["127.0.0.1", 2**40], family=2, kind=1, backlog=2**62),
    wire.Listen(request=0, address=None, family=2**62, kind=-1, backlog=0),
):
    try:
        inside._membership.link.request(request)
    except OSError:
        continue
gains_nothing()
""",
        "nothing",
    ),
}

#: With `round_robin` alone: what lies where the primary reads back.
FORGERIES = {
    "garbage where the primary reads back": (
        "[send(b'\\xc1 garbage', pipes(1), sock=end) for _ in range(4)]\nwhile True: signal.pause()",
        "its channel",
    ),
    "a hand-over of its own making": (
        """
send(wire.encode(wire.Handover(999999, [["1.2.3.4", 5]])), pipes(1), sock=end)
while True: signal.pause()
""",
        "its channel",
    ),
}
