"""Data of `dense_resource<name>`: from the text's own section or a `.safetensors` file beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from mdsl.errors import MdslError, Source, SyntaxError_, nearest
from mdsl.ir.attributes import DenseResourceAttr, Resource, name_of_key
from mdsl.ir.core import Op
from mdsl.ir.types import FLOATS, INTEGERS, SCALARS, ShapedType, dtype_of, i1, index, type_of_dtype
from mdsl.syntax.strings import unquote

_ALIGNMENT = b"\x40\x00\x00\x00"  # MLIR's blobs start with their alignment, 64, as a little-endian i32


def weights_path(program: Path) -> Path:
    """Where the weights of a program's text lie: `net.safetensors` for `net.mir`; a name that does not end in
    `.mir` is kept whole, so that programs of different names have weights of different names."""
    name = program.stem if program.suffix.lower() == ".mir" else program.name
    return program.parent / f"{name}.safetensors"


class Resources:
    """What one text can refer to. `folder` is where its weights file would lie (None: nowhere)."""

    def __init__(self, source: Source, folder: Path | None) -> None:
        self.source = source
        self.path = None if folder is None else weights_path(folder / Path(source.name).name)
        self.section: dict[str, bytes] = {}
        self.cache: dict[str, Resource] = {}

    def read_section(self, text: str, offset: int) -> None:
        """MLIR's `{-# dialect_resources: { builtin: { name: "0x..." } } #-}`."""
        for match in re.finditer(
            r'([\w.$]+|"[^"\\\n]*(?:\\.[^"\\\n]*)*")\s*:\s*"(0x[0-9A-Fa-f]*)"', text, re.ASCII
        ):
            name = unquote(match[1]) if match[1][0] == '"' else match[1]
            try:
                data = bytes.fromhex(match[2][2:])
            except ValueError:
                raise SyntaxError_(
                    f"resource {name} is not whole bytes", self.source, offset + match.start(2)
                ) from None
            self.section[name] = data[4:]

    @cached_property
    def _file(self) -> dict[str, np.ndarray]:
        """The tensors of the weights file, mapped."""
        assert self.path is not None
        return load_weights(self.path)

    def find(self, name: str, type: ShapedType) -> Resource:
        """The resource `name`, which must have the shape and dtype of `type`. Raises ValueError."""
        if name not in self.cache:
            self.cache[name] = self._load(name, type)
        resource = self.cache[name]
        found = resource.array
        if found.shape != type.shape or found.dtype != dtype_of(type.element):
            dims = "x".join(map(str, [*found.shape, type_of_dtype(found.dtype)]))
            raise ValueError(f"resource '{name}' is a tensor<{dims}>, not a {type}")
        return resource

    def _load(self, name: str, type: ShapedType) -> Resource:
        if name in self.section:
            data = self.section[name]
            if len(data) != type.nbytes:
                raise ValueError(f"resource '{name}' has {len(data)} bytes, {type} has {type.nbytes}")
            return Resource(np.frombuffer(data, dtype_of(type.element)).reshape(type.shape))
        if self.path is None or not self.path.exists():
            where = f" and the weights file {self.path} does not exist" if self.path else ""
            raise ValueError(f"resource '{name}' is not in the text{where}")
        if name not in self._file:
            raise ValueError(f"no tensor '{name}' in {self.path}{nearest(name, list(self._file))}")
        return Resource(self._file[name], external=True)


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file as views of the mapped file. Raises MdslError."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            total = path.stat().st_size
            if size > total - 8:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(size))
        mapped = (
            np.memmap(path, np.uint8, "r", offset=8 + size) if total > 8 + size else np.zeros(0, np.uint8)
        )
        return {name: _view(mapped, entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MdslError(f"{path}: error: not a readable .safetensors file: {error}") from None


_SAFETENSORS = {str(t).upper(): str(t) for t in (*FLOATS, *INTEGERS) if t not in (i1, index)} | {"BOOL": "i1"}


def _view(mapped: np.ndarray, entry: dict[str, object]) -> np.ndarray:
    start, end = entry["data_offsets"]  # type: ignore[misc]
    dtype = dtype_of(SCALARS[_SAFETENSORS[str(entry["dtype"])]])
    if not 0 <= start <= end <= mapped.size:
        raise ValueError("a tensor lies outside the file")
    return np.asarray(mapped[start:end]).view(dtype).reshape(entry["shape"])  # type: ignore[arg-type]


def used(root: Op) -> dict[str, Resource]:
    """The resources that the ops under `root` refer to, by name, in order of first use."""
    found: dict[str, Resource] = {}
    for op in root.walk():
        for attr in op.attributes.values():
            if isinstance(attr, DenseResourceAttr) and attr.data is not None:
                found.setdefault(attr.name, attr.data)
    return found


def check_names(root: Op) -> None:
    """Raises MdslError where ops under `root`, of a module that was built and not read, refer by one name to different data: passes and
    texts tell resources by their names."""
    found: dict[str, Resource] = {}
    for op in root.walk():
        for attr in op.attributes.values():
            if not isinstance(attr, DenseResourceAttr) or attr.data is None:
                continue
            known = found.setdefault(attr.name, attr.data)
            if known is not attr.data and not _is_same(known.array, attr.data.array):
                raise MdslError(
                    f"error: '{op.name}': dense_resource<{name_of_key(attr.name)}> is the name of other data, too"
                )


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether shape, type and all bits are the same."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return one is other or np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def print_section(resources: dict[str, Resource]) -> str:
    """The `{-# dialect_resources #-}` section that holds `resources`; empty for none."""
    return "".join(section_parts(resources))


def section_parts(resources: dict[str, Resource]) -> Iterator[str]:
    """The same piece by piece, for whoever writes it: as one text the weights of a network take hundreds of megabytes."""
    separator = "\n{-#\n  dialect_resources: {\n    builtin: {\n"
    for name, resource in resources.items():
        yield f'{separator}      {name_of_key(name)}: "0x{_ALIGNMENT.hex().upper()}'
        yield from _hex(resource.array)
        separator = '",\n'
    if resources:
        yield '"\n    }\n  }\n#-}\n'


_PIECE = 1 << 15
"""Pairs of bytes that are written at once: their digits stay in a processor's cache."""


def _hex(array: np.ndarray) -> Iterator[str]:
    """The array's bytes in hexadecimal. A pair's digits are looked up, in half the time of `bytes.hex` and `upper`."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    pairs = data[: data.size // 2 * 2].view(np.uint16)
    digits = _digits()
    for at in range(0, pairs.size, _PIECE):
        yield str(digits.take(pairs[at : at + _PIECE]).data, "ascii")
    yield data[pairs.size * 2 :].tobytes().hex().upper()


@cache
def _digits() -> np.ndarray:
    """The four digits of each pair of bytes."""
    pairs = np.arange(1 << 16, dtype=np.uint16)
    return np.frombuffer(pairs.tobytes().hex().upper().encode(), np.uint32)
