"""Reading an `.onnx` file: one clear error for whatever is not a model."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdsl.errors import MdslError
from mdsl.frontends.onnx.tensors import TensorReader
from mdsl.frontends.onnx.wire import without_weights
from mdsl.support.formats import ONNX, advice

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_FILE = (1 << 31) - 1
"""What a protobuf message may have; larger models keep their weights in files beside them."""

WORTH_SPARING = 1 << 18
"""Bytes from which on a file is mapped, and its weights are left in it."""

OLDEST_OPSET = 6


@dataclass(frozen=True)
class Model:
    """A model, what to call it in messages, the opset version of each domain, and its tensors' data."""

    proto: ModelProto
    name: str
    opsets: dict[str, int]
    tensors: TensorReader


def require_onnx() -> None:
    """Raises MdslError if the `onnx` package is not installed."""
    if find_spec("onnx") is None:
        raise MdslError("error: .onnx files need the package onnx: pip install 'mdsl[onnx]'")


def load(path: str | os.PathLike[str]) -> Model:
    """The model in the file `path`. Raises MdslError, OSError."""
    require_onnx()
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    file = Path(path)
    data = _bytes(file)
    whole = np.frombuffer(data, np.uint8)
    spared = without_weights(memoryview(data)) if whole.size >= WORTH_SPARING else None
    proto = ModelProto()
    try:
        proto.ParseFromString(bytes(data) if spared is None else spared)
    except (DecodeError, ValueError):
        why = advice(file, ONNX) or ": it is damaged or no protobuf message"
        raise MdslError(f"{file}: error: not an ONNX model{why}") from None
    return model_of(proto, str(file), file.parent, None if spared is None else whole)


def _bytes(file: Path) -> bytes | mmap.mmap:
    """The file, mapped if it is large. Raises MdslError, OSError."""
    with open(file, "rb") as stream:
        found = os.fstat(stream.fileno())
        if stat.S_ISREG(found.st_mode) and WORTH_SPARING <= found.st_size <= MAX_FILE:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        data = stream.read(MAX_FILE + 1) if found.st_size <= MAX_FILE else b""
    if found.st_size > MAX_FILE or len(data) > MAX_FILE:
        raise MdslError(f"{file}: error: more than the {MAX_FILE} bytes that an ONNX file may have")
    if not data:
        raise MdslError(f"{file}: error: the file is empty")
    return data


def model_of(
    proto: ModelProto, name: str = "<model>", folder: Path | None = None, whole: np.ndarray | None = None
) -> Model:
    """A model that is in memory; `folder` is where its external data lies, `whole` its file's bytes if weights
    were left there. Raises MdslError."""
    require_onnx()
    if not proto.HasField("graph") or not proto.opset_import:
        raise MdslError(
            f"{name}: error: not an ONNX model: it has no {'opset' if proto.HasField('graph') else 'graph'}"
        )
    opsets = {normal_domain(o.domain): o.version for o in proto.opset_import}
    _check_opset(opsets.get(""), name)
    return Model(proto, name, opsets, TensorReader(folder, whole))


def check_text(*texts: object) -> None:
    """Raises MdslError for names that are not UTF-8, which protobuf lets through as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise MdslError(f"error: a name in the model is not UTF-8 text: {text!r}")


def normal_domain(domain: str) -> str:
    """ONNX's own domain has two names."""
    return "" if domain == "ai.onnx" else domain


def _check_opset(version: int | None, name: str) -> None:
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    if version is None:
        return
    if version < OLDEST_OPSET:
        raise MdslError(f"{name}: error: opset {version} is too old: {OLDEST_OPSET} to {newest} are read")
    if version > newest:
        raise MdslError(
            f"{name}: error: opset {version} is newer than the installed onnx package knows ({newest})"
        )
