"""The values that users may send, and their encoding.

Encode a value, or say *where* in it the trouble is (`message['a'][2]: set is not a value that can be sent`).
Invariant: "json" takes None, bool, int of 64 bits, float, str, bytes, list, dict and tuple (which arrives as
a list), and nothing else. The value that arrives is equal to the one that was sent, and reading it runs no
code. "pickle" runs code when it is read, so only the consumer of a message calls `decode`, never its carrier.

On the wire "json" is msgpack, by msgspec: JSON's model plus bytes, in half the time. msgspec by itself would
take far more types (sets, datetimes, Decimals, dataclasses, Enums), each of which would arrive as something
else. So every value is first checked quickly. If that finds something odd, a second, slow check names the
place.

Subclasses of dict, list and tuple (OrderedDict, defaultdict, named tuples) are sent as their base. So are
subclasses of str, int, float and bytes, as values but not as keys. An Enum member is refused even if it is a
str or an int: it would not arrive as a member.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NoReturn

import msgspec

#: The deepest nesting that may be sent, well within the recursion limit of both ends.
MAX_DEPTH: Final = 200
#: What `decode` raises for "json". For "pickle" it may raise anything.
DecodeError = msgspec.DecodeError

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_are_scalars = _SCALARS.issuperset
_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes.__bytes__),
)
_LEAST, _MOST = -(2**63), 2**64 - 1


def encode(value: Any, serialization: str = "json") -> bytes:
    """Return `value` as bytes.

    Raises for "json": TypeError, OverflowError or ValueError, which name the place. Raises for "pickle":
    whatever `pickle.dumps` raises.
    """
    return encode_pickle(value) if serialization == "pickle" else encode_json(value)


def decode(body: bytes, serialization: str = "json") -> Any:
    """Return the value of `body`.

    Raises for "json": `DecodeError` and nothing else. Raises for "pickle": whatever the peer's code raises.
    """
    if serialization == "pickle":
        return decode_pickle(body)
    try:
        return decode_json(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(str(error)) from error


def encode_json(value: Any) -> bytes:
    """Do `encode(value, "json")`. Hot: about a third of a microsecond for a small dict."""
    if not _is_plain(value, MAX_DEPTH):
        _explain(value, "message", (), in_key=False)
    try:
        return _encode(value)
    except (OverflowError, ValueError, TypeError):
        _explain(value, "message", (), in_key=False)
        raise


def encode_pickle(value: Any) -> bytes:
    """Do `encode(value, "pickle")`."""
    import pickle  # late: "json" is the default

    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def decode_pickle(body: bytes) -> Any:
    """Do `decode(body, "pickle")`, which runs code that the peer chose."""
    import pickle  # late, as above

    return pickle.loads(body)  # noqa: S301 - opt-in, refused when uids differ


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `value` consists of exactly the types that can be sent. False also if that is not certain."""
    kind = type(value)
    if kind is dict:
        # One loop over keys and values: faster than two C iterators for the usual few items, equal for many.
        for key, child in value.items():
            if type(key) not in _SCALARS:
                return False
            if type(child) not in _SCALARS and not (depth and _is_plain(child, depth - 1)):
                return False
        return True
    if kind is not list and kind is not tuple:
        return kind in _SCALARS
    if _are_scalars(map(type, value)):
        return True
    if depth == 0:
        return False
    for child in value:  # noqa: SIM110 - a generator costs as much as the rest
        if type(child) not in _SCALARS and not _is_plain(child, depth - 1):
            return False
    return True


def _explain(value: Any, path: str, parents: tuple[int, ...], *, in_key: bool) -> None:
    """Raise an error that says what is wrong with `value` at `path`, if anything is. Slow."""
    if isinstance(value, (dict, list, tuple)) and not in_key:
        if id(value) in parents:
            raise ValueError(f"{path}: a {type(value).__name__} that contains itself can't be sent")
        if len(parents) > MAX_DEPTH:
            raise ValueError(f"{path[:80]}...: nested more than {MAX_DEPTH} levels deep")
        parents = (*parents, id(value))
        if isinstance(value, dict):
            for key, child in value.items():
                name = repr(key)[:40] if type(key) in _SCALARS else "..."
                _explain(key, f"{path}: key {name}", parents, in_key=True)
                _explain(child, f"{path}[{name}]", parents, in_key=False)
        else:
            for index, child in enumerate(value):
                _explain(child, f"{path}[{index}]", parents, in_key=False)
    elif not _is_scalar(value, in_key=in_key):
        what = "key" if in_key else "value"
        raise TypeError(f"{path}: {type(value).__name__} is not a {what} that can be sent")
    elif isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise OverflowError(f"{path}: an int of more than 64 bits can't be sent")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            # UnicodeEncodeError takes no free text; its base class does.
            raise ValueError(f"{path}: a str with a lone surrogate can't be sent") from None


def _is_scalar(value: Any, *, in_key: bool) -> bool:
    if type(value) in _SCALARS:
        return True
    return not in_key and not isinstance(value, Enum) and isinstance(value, (str, int, float, bytes))


def _as_base(value: Any) -> Any:
    """Convert a subclass of str, int, float or bytes, which msgspec does not know. Runs after `_explain`."""
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    raise TypeError(f"{type(value).__name__} is not a value that can be sent")


def _no_extension(code: int, _: memoryview) -> NoReturn:
    """Refuse msgpack's extension types, which `encode` never writes. msgspec calls this."""
    raise ValueError(f"an extension of type {code} is not a value that can be received")


_encode = msgspec.msgpack.Encoder(enc_hook=_as_base).encode
#: As `decode(body, "json")`, but it may raise any ValueError, or RecursionError, besides `DecodeError`.
decode_json: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder(ext_hook=_no_extension).decode
