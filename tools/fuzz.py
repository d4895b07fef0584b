"""Coverage-guided fuzzing of the code that reads bytes from others (atheris, libFuzzer).

python tools/fuzz.py decoders                 # every decoder, and the cutting of streams
python tools/fuzz.py histories                # the primary's drivers, with a worker that lies at every step
python tools/fuzz.py mailboxes                # one end of a channel, with a peer that sends anything
python tools/fuzz.py decoders --only=frames   # one decoder alone
python tools/fuzz.py decoders -runs=1000000   # options with one dash are libFuzzer's
python tools/fuzz.py decoders --replay        # runs only the kept inputs, once; does not need atheris
python tools/fuzz.py everything -runs=1000000 # every decoder by itself, then the two others; a line for each

New inputs are kept in tools/fuzz-corpus/. An input that fails is printed, and kept in the current folder.
This needs atheris, which has wheels for CPython 3.12 to 3.14; `make fuzz` makes an environment for it. An
input of histories and mailboxes is a whole history: the messages in it are counted too, and reported on
stderr.
"""

import contextlib
import functools
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
CORPUS = ROOT / "tools" / "fuzz-corpus"

try:
    import atheris  # type: ignore[import-untyped]
except ImportError:
    instrumented: Any = contextlib.nullcontext
else:
    instrumented = functools.partial(atheris.instrument_imports, include=["everycore"])

with instrumented():
    from everycore.config.layers import File, resolve, unknown_keys, unknown_variables
    from everycore.config.setting import PREFIX, fields_of
    from everycore.config.tree import RunSettings, ServeSettings
    from everycore.core import control, frames, mold_wire, permits, proxies, request_ids, values, wire
    from everycore.core.lines import LineBuffer
    from everycore.errors import ConfigurationError, ControlError, ProtocolError
    from everycore.ops.settings_file import parsed
    from everycore.primary.other_user import permitted
    from everycore.servers.binds import parse_binds
    from everycore.system import board, notify, sightings


class Count:
    """Counts the inputs of the drivers: each message of a history is one."""

    inputs = steps = 0

    def tell(self, inputs: str, steps: str) -> None:
        """Print the count on stderr now and then, because libFuzzer ends the process when it is done."""
        self.inputs += 1
        if self.inputs % 100 == 0:
            print(f"fuzz: {self.inputs} {inputs}, {self.steps} {steps}", file=sys.stderr)


COUNT = Count()


class Choices:
    """A `tests.kit.liars.Source`: the bytes of the input, then zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, least: int, most: int) -> int:
        span = most - least
        taken = int.from_bytes(self._take((span.bit_length() + 7) // 8), "big")
        return least + taken % (span + 1)

    def until_they_are_over(self) -> Iterator[None]:
        """Once for each choice for which there are bytes."""
        while self._at < len(self._data):
            COUNT.steps += 1
            yield

    def value(self, depth: int = 2) -> Any:
        kind = self.number(0, 15)
        if kind < 4:
            return self.number(-2, 20)
        if kind < 6:
            return self.number(-(2**63), 2**64 - 1)
        if kind < 9:
            return ["127.0.0.1", self.number(0, 1) and self.number(0, 65535)]
        if kind < 11 and depth:
            return [self.value(depth - 1) for _ in range(self.number(0, 4))]
        return (None, True, "x" * 7000, "/nowhere/x", b"\0everycore-fuzz", self.data(), 0.5)[kind % 7]

    def data(self) -> bytes:
        return self._take(self.number(0, 40))


# --- decoders: each takes arbitrary bytes, and raises at most one kind of error -----------------------------


def _of_wire(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            decode(data)

    return target


def _values(data: bytes) -> None:
    with contextlib.suppress(values.DecodeError):
        values.decode(data)


def _frames(data: bytes) -> None:
    """The frames of a stream, in chunks as they arrive, with made-up descriptors: each has one owner."""
    choices = Choices(data)
    decoder = frames.FrameDecoder(1 << 12)
    given: list[int] = []
    owned: list[int] = []
    try:
        for _ in range(8):
            fds = range(len(given), len(given) + choices.number(0, 3))
            given += fds
            for _kind, _body, claimed in decoder.feed(choices.data(), tuple(fds)):
                owned += claimed
            decoder.check()
    except ProtocolError:
        pass
    owned += decoder.close()
    assert sorted(owned) == given, (owned, given)


def _proxy(data: bytes) -> None:
    """A header is the same whatever follows it, and is not found before it is complete."""
    try:
        header = proxies.read_header(data)
    except ValueError:
        return
    if header is None:
        assert len(data) < proxies.MOST_HEADER
        return
    assert header.size <= min(len(data), proxies.MOST_HEADER)
    assert proxies.read_header(data[: header.size]) == header
    assert proxies.read_header(data[: header.size - 1]) is None
    if header.peer is not None:
        wire.check_peer(header.peer)


def _requests(data: bytes) -> None:
    """The bytes that a client of the control socket sends, in chunks."""
    lines = LineBuffer()
    with contextlib.suppress(ControlError):
        for start in range(0, len(data), 7):
            lines.feed(data[start : start + 7])
            while (line := lines.line()) is not None:
                request = control.read_request(line)
                assert control.read_request(control.request_line(request)) == request
                if isinstance(request, control.OrderScale):
                    control.size_after(request, 2)


def _answers(data: bytes) -> None:
    try:
        control.read_answer(data)
    except ControlError as error:
        control.refusal_line(error)


def _sockets(data: bytes) -> None:
    """The kernel's table of unix sockets, whose names any process may choose."""
    for inode, name in sightings.listeners_in(data.decode("utf-8", "surrogateescape").splitlines(True)):
        assert isinstance(inode, int)
        assert name


def _board(data: bytes) -> None:
    """Readers clamp values, whatever workers have written anywhere on it."""
    _BOARD._cells[: 8 * board.ROW] = memoryview(data.ljust(_BOARD_BYTES, data[-1:] or b"\0"))[
        :_BOARD_BYTES
    ].cast("q")
    for row in range(8):
        assert 0 <= _BOARD.open(row) <= 1 << 24
        assert 0 <= _BOARD.accepted(row) <= 1 << 62
        assert 0 <= _BOARD.requests(row) <= 1 << 62
        _BOARD.beat(row)
    if data[-1:] != b"x":  # mostly as many rows as exist
        _BOARD._cells[0] %= 9
    reader = board.WorkerBoard.__new__(board.WorkerBoard)
    reader._cells, reader._at, reader._open = _BOARD._cells, board.ROW, 5
    reader.next(1.0)


_BOARD_BYTES = 8 * board.ROW * 8
_BOARD = board.PrimaryBoard()
_PERMITS = {permits.permit_of(address): address for address in (("127.0.0.1", 81), "/run/x.sock", b"\0x")}
_NAMED = list(_PERMITS.values())


def _permits(data: bytes) -> None:
    """Whatever a worker of another user asks for, only the settings' own addresses are bound."""
    choices = Choices(data)
    listen = msgspec_listen(choices)
    with contextlib.suppress(OSError, ProtocolError, ValueError):
        found = permitted(listen, {permit: named for permit, named in _PERMITS.items() if permit is not None})
        assert any(
            found.address == (list(named) if isinstance(named, tuple) else named) for named in _NAMED
        ), found
    permits.may_set(choices.number(0, 300), choices.number(0, 300))


def msgspec_listen(choices: Choices) -> wire.Listen:
    address = choices.value()
    if choices.number(0, 1):
        address = (["127.0.0.1", 81], "/run/x.sock", b"\0x", ["::ffff:127.0.0.1", 81])[choices.number(0, 3)]
    try:
        return wire.Listen(
            address=address,
            family=choices.number(0, 20),
            kind=choices.number(0, 5),
            backlog=choices.number(0, 9),
        )
    except ValueError:
        return wire.Listen(address=None, fd=choices.number(-2, 300), family=2, kind=1, backlog=0)


_BIND = next(field for field in fields_of(ServeSettings) if field.name == "bind")
_FIELDS = {"serve": tuple(fields_of(ServeSettings)), "run": tuple(fields_of(RunSettings))}


def _files(data: bytes) -> None:
    """A settings file."""
    with contextlib.suppress(ConfigurationError):
        file = File("everycore.toml", parsed(data, "everycore.toml", "argument"))
        unknown_keys(file, _FIELDS)
        for command, fields in _FIELDS.items():
            resolve(fields, {}, {}, file, command)


def _variables(data: bytes) -> None:
    """The environment: everycore's variables, and the service manager's."""
    choices = Choices(data)
    fields = _FIELDS["serve"]
    concerned = [_BIND]  # all others always have their defaults
    environ = {}
    for _ in range(3):
        field = fields[choices.number(0, len(fields) - 1)]
        concerned.append(field)
        name = (field.variable, PREFIX + "X", "PORT")[choices.number(0, 2)]
        environ[name] = choices.data().decode("utf-8", "surrogateescape").replace("\0", "")
    if choices.number(0, 255) == 255:  # the search for similar names is slow
        unknown_variables(environ, fields)
    with contextlib.suppress(ConfigurationError):
        found = resolve(concerned, {}, environ, None, "serve")
        parse_binds(found["bind"].value)
    text = choices.data().decode("utf-8", "surrogateescape").replace("\0", "")
    asking = notify.notifier({notify.SOCKET: "@everycore-fuzz", notify.WATCHDOG: text}, 1)
    if asking is not None:
        asking.tell(f"STATUS={text}")
        asking.close()


def _request_ids(data: bytes) -> None:
    found = request_ids.accepted([(request_ids.HEADER, data)])
    assert found is None or (found.isprintable() and 0 < len(found) <= request_ids.MOST_LETTERS)


#: The order must not change: the first byte of a kept input is the index.
DECODERS: dict[str, Callable[[bytes], None]] = {
    "to-primary": _of_wire(wire.decode_to_primary),
    "to-worker": _of_wire(wire.decode_to_worker),
    "link-request": _of_wire(wire.decode_link_request),
    "link-reply": _of_wire(wire.decode_link_reply),
    "handover": _of_wire(wire.decode_handover),
    "upstream": _of_wire(wire.decode_upstream),
    "values": _values,
    "frames": _frames,
    "proxy": _proxy,
    "requests": _requests,
    "answers": _answers,
    "sockets": _sockets,
    "board": _board,
    "permits": _permits,
    "files": _files,
    "variables": _variables,
    "request-ids": _request_ids,
    "from-mold": _of_wire(mold_wire.decode_from_mold),
}
_ORDER = tuple(DECODERS.values())


def decoders(data: bytes) -> None:
    """Run the decoder that the first byte chooses."""
    _ORDER[(data[0] if data else 0) % len(_ORDER)](data[1:])


# --- drivers ------------------------------------------------------------------------------------------------


def histories(data: bytes) -> None:
    """See `tests.kit.liars`."""
    from everycore import testing
    from tests.kit.liars import history

    choices = Choices(data)
    policy = ("round_robin", "shared", "sticky")[choices.number(0, 2)]
    dies_alone = bool(choices.number(0, 1))
    testing.run(history(choices, policy, choices.until_they_are_over(), dies_alone=dies_alone))
    COUNT.tell("histories", "lies")


def mailboxes(data: bytes) -> None:
    """See `tests.kit.strange_peers`."""
    from everycore import testing
    from tests.kit.strange_peers import conversation

    choices = Choices(data)
    testing.run(conversation(choices, choices.until_they_are_over()))
    COUNT.tell("conversations", "acts")


TARGETS = {"decoders": decoders, "histories": histories, "mailboxes": mailboxes}


def replay(name: str) -> int:
    """Run each kept input once. Returns their number. Those of one decoder are in a folder of its name."""
    kept = sorted(path for path in (CORPUS / name).rglob("*") if path.is_file())
    for path in kept:
        (TARGETS[name] if path.parent.name == name else DECODERS[path.parent.name])(path.read_bytes())
    return len(kept)


def everything(options: list[str]) -> int:
    """Run all, each in a process of its own. The status is that of the first one that fails."""
    first = 0
    runs = [["decoders", f"--only={name}"] for name in DECODERS]
    for words in [*runs, ["histories"], ["mailboxes"]]:
        begun = time.monotonic()
        command = [sys.executable, __file__, *words, *options]
        done = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        told = [line for line in done.stdout.splitlines() if line.startswith(("fuzz:", "Done "))]
        took = f"{time.monotonic() - begun:.0f} s, status {done.returncode}"
        print(f"{' '.join(words)}: {took}; {'; '.join(told[-2:])}", flush=True)
        if done.returncode:
            print(done.stdout[-5000:])
            first = first or done.returncode
    return first


def main() -> int:
    options = [option for option in sys.argv[2:] if option.startswith("--")]
    rest = [option for option in sys.argv[2:] if option not in options]
    only = next((option.partition("=")[2] for option in options if option.startswith("--only=")), None)
    if sys.argv[1:2] == ["everything"]:
        return everything(rest)
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS or only not in (None, *DECODERS):
        sys.stderr.write(f"{__doc__}\nDecoders: {', '.join(DECODERS)}.\n")
        return 2
    name = sys.argv[1]
    logging.disable()  # the log lines about a lying peer do not matter here
    if "--replay" in options:
        print(f"{replay(name)} inputs of {name}")
        return 0
    target: Callable[[bytes], None] = TARGETS[name]
    folder = CORPUS / name
    if name != "decoders":
        with instrumented():
            import everycore.primary.driver  # noqa: F401
        rest = ["-max_len=1000", "-len_control=0", *rest]  # some bytes for each message
    elif only is not None:
        target, folder = DECODERS[only], folder / only
    folder.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(folder), *rest], target)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
