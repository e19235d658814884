"""File types by their first bytes, for messages about a file that is not what it should be."""

from __future__ import annotations

import os
from pathlib import Path

MBC, SAFETENSORS, ZIP, ONNX, TEXT = ".mbc", ".safetensors", ".zip", ".onnx", "text"

MAGIC = b"\x93mbc\r\n\x1a\n"
"""What an `.mbc` file begins with: no text does, and a transfer as text would damage it."""

_ADVICE = {
    MBC: "it is compiled bytecode, which 'mdsl run', 'bench', 'report' and 'dis' take by a name that ends in .mbc",
    SAFETENSORS: "it holds weights (.safetensors); the program is the .mir file beside it",
    ZIP: "it is a zip archive, as .npz files are",
    ONNX: "it looks like an ONNX model, which 'mdsl run' and others take by a name that ends in .onnx",
    TEXT: "it is text; 'mdsl run' and others take a program by a name that ends in .mir",
}


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of a file, None if it cannot be told (or read without taking something from a pipe)."""
    try:
        if not Path(path).is_file():
            return None
        with open(path, "rb") as file:
            start, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if start.startswith(MAGIC):
        return MBC
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return SAFETENSORS
    if start.startswith(b"PK\x03\x04"):
        return ZIP
    # Field 1 of the protobuf message is the version of the format.
    if start[:1] == b"\x08" and b"\0" < start[1:2] < b" ":
        return ONNX
    return TEXT if start and all(byte >= 32 or byte in b"\t\n\r\f" for byte in start) else None


def advice(path: str | os.PathLike[str], wanted: str) -> str:
    """`: it is ...`, what a file is that is not of the format `wanted`; nothing if it is, or cannot be told."""
    found = format_of(path)
    return "" if found is None or found == wanted else f": {_ADVICE[found]}"
