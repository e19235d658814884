"""A reader of protobuf's wire format that leaves a model's weights in the mapped file.

Parsing a model of 100 MB copies its weights twice. Here the message is walked first, on the mapped file: the raw
data of a large tensor is left out of what is handed to the parser, and the tensor refers to its place in the file
instead, as one with external data does. What does not look as expected stays as it is: the parser judges it.

A message is a sequence of fields, each a varint key (number * 8 + type) and a value; a value of type 2 is a varint
length and as many bytes. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

LARGE = 1 << 12
"""Bytes of raw data from which on it is worth while."""

HERE = "\0here"
"""The location of data that lies in the model's own file: no path can be called so."""

_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
_RAW_DATA, _EXTERNAL_DATA, _LOCATION = 9, 13, 14
_LENGTHS = {1: 8, 5: 4}

Field = tuple[int, int, int, int]
"""(number, type, start of the value, end of the value); the value of type 2 is its bytes without the length."""


class NotExpected(Exception):
    """The bytes are no message, or one that is better left alone."""


def without_weights(data: memoryview) -> bytes | None:
    """The ModelProto in `data` with its large raw data replaced by references; None if there is nothing to gain."""
    try:
        parts: list[bytes | memoryview] = []
        spared = [0]
        _rewrite(data, 0, len(data), {_GRAPH: _graph}, parts, spared)
    except NotExpected:
        return None
    return b"".join(parts) if spared[0] else None


Rewriter = Callable[[memoryview, int, int, "list[bytes | memoryview]", "list[int]"], None]


def _rewrite(
    data: memoryview,
    start: int,
    end: int,
    inner: dict[int, Rewriter],
    parts: list[bytes | memoryview],
    spared: list[int],
) -> None:
    """Copies the message between `start` and `end` to `parts`, the fields in `inner` rewritten."""
    copied = start
    for number, kind, first, last in _fields(data, start, end):
        if number not in inner or kind != 2 or last - first < LARGE:
            continue
        body: list[bytes | memoryview] = []
        before = spared[0]
        inner[number](data, first, last, body, spared)
        if spared[0] == before:
            continue
        parts.append(data[copied : _key_start(data, copied, number, first, last)])
        parts.append(_varint(number * 8 + 2) + _varint(sum(map(len, body))))
        parts.extend(body)
        copied = last
    parts.append(data[copied:end])


def _key_start(data: memoryview, copied: int, number: int, first: int, last: int) -> int:
    """Where the key of the field whose value starts at `first` begins."""
    size = len(_varint(number * 8 + 2)) + len(_varint(last - first))
    at = first - size
    if at < copied or _read(data, _read(data, at, first)[1], first) != (last - first, first):
        raise NotExpected  # a length written in more bytes than it needs
    return at


def _graph(
    data: memoryview, start: int, end: int, parts: list[bytes | memoryview], spared: list[int]
) -> None:
    _rewrite(data, start, end, {_INITIALIZER: _tensor, _NODE: _node}, parts, spared)


def _node(data: memoryview, start: int, end: int, parts: list[bytes | memoryview], spared: list[int]) -> None:
    """A Constant's value is a tensor in one of its attributes."""
    _rewrite(data, start, end, {_ATTRIBUTE: _attribute}, parts, spared)


def _attribute(
    data: memoryview, start: int, end: int, parts: list[bytes | memoryview], spared: list[int]
) -> None:
    _rewrite(data, start, end, {_TENSOR: _tensor}, parts, spared)


def _tensor(
    data: memoryview, start: int, end: int, parts: list[bytes | memoryview], spared: list[int]
) -> None:
    """A TensorProto whose raw data is large refers to where it is; any other stays as it is."""
    fields = list(_fields(data, start, end))
    raw = [f for f in fields if f[0] == _RAW_DATA]
    if len(raw) != 1 or any(f[0] in (_EXTERNAL_DATA, _LOCATION) for f in fields):
        parts.append(data[start:end])
        return
    _, kind, first, last = raw[0]
    if kind != 2 or last - first < LARGE:
        parts.append(data[start:end])
        return
    parts.append(data[start : _key_start(data, start, _RAW_DATA, first, last)])
    parts.append(data[last:end])
    for key, value in (("location", HERE), ("offset", str(first)), ("length", str(last - first))):
        parts.append(_bytes(_EXTERNAL_DATA, _bytes(1, key.encode()) + _bytes(2, value.encode())))
    parts.append(_varint(_LOCATION * 8) + _varint(1))
    spared[0] += last - first


def _fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    at = start
    while at < end:
        key, at = _read(data, at, end)
        kind = key & 7
        if kind == 0:
            first, at = at, _read(data, at, end)[1]
        elif kind == 2:
            length, first = _read(data, at, end)
            at = first + length
        elif kind in _LENGTHS:
            first, at = at, at + _LENGTHS[kind]
        else:
            raise NotExpected
        if at > end:
            raise NotExpected
        yield key >> 3, kind, first, at


def _read(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """The varint at `at` and where it ends."""
    value, shift = 0, 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotExpected


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number * 8 + 2) + _varint(len(value)) + value
