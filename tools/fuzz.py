"""Coverage-guided fuzzing of what reads a worker's bytes (atheris, libFuzzer).

python tools/fuzz.py decoders                 # every decoder, and the cutting of a stream into frames
python tools/fuzz.py histories                # the primary's drivers, with a worker that lies at every step
python tools/fuzz.py decoders -runs=1000000   # what begins with a dash is libFuzzer's
python tools/fuzz.py decoders --replay        # what was kept alone, once; needs no atheris

What is found is kept in tools/fuzz-corpus/, and an input that fails is printed and kept where it is run. It
needs atheris, which has wheels for CPython 3.12 to 3.14; `make fuzz` makes an environment for it.
"""

import contextlib
import functools
import logging
import sys
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
    from everycore.core import frames, values, wire
    from everycore.errors import ProtocolError

DECODERS = (
    wire.decode_to_primary,
    wire.decode_to_worker,
    wire.decode_link_request,
    wire.decode_link_reply,
    wire.decode_handover,
    wire.decode_upstream,
)


class Choices:
    """A `tests.kit.liars.Source`: bytes, and zeros when they are over."""

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


def decoders(data: bytes) -> None:
    """Whatever the bytes are, there is one kind of error, and each descriptor has one owner."""
    which, body = (data[0] if data else 0), data[1:]
    if which % 8 < len(DECODERS):
        with contextlib.suppress(ProtocolError):
            DECODERS[which % 8](body)
    elif which % 8 == len(DECODERS):
        with contextlib.suppress(values.DecodeError):
            values.decode(body)
    else:
        _cut(body)


def _cut(data: bytes) -> None:
    """The frames of a stream, in chunks as they come, with made-up descriptors."""
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


def histories(data: bytes) -> None:
    """See `tests.kit.liars`."""
    from everycore import testing
    from tests.kit.liars import history

    choices = Choices(data)
    policy = ("round_robin", "shared")[choices.number(0, 1)]
    lies, dies_alone = choices.number(1, 20), bool(choices.number(0, 1))
    testing.run(history(choices, policy, lies, dies_alone=dies_alone))


TARGETS = {"decoders": decoders, "histories": histories}


def replay(name: str) -> int:
    """How many inputs were kept; each is run once."""
    kept = sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
    for path in kept:
        TARGETS[name](path.read_bytes())
    return len(kept)


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.stderr.write(__doc__ or "")
        return 2
    name = sys.argv[1]
    logging.disable()  # what a liar is told is of no interest
    if "--replay" in sys.argv:
        print(f"{replay(name)} inputs of {name}")
        return 0
    if name == "histories":
        with instrumented():
            import everycore.primary.driver  # noqa: F401
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(CORPUS / name), *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
