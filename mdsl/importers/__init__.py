"""Importers: programs in other formats as modules of `nn` ops. One package a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp

SUFFIXES = (".onnx",)
"""What the names of files in other formats end in."""


def read_bound(path: Path, sizes: Mapping[str, int]) -> tuple[ModuleOp, Mapping[str, int]]:
    """The module of a program's file, and those of the `sizes` of its dimensions that are yet to be bound: a model
    of another format takes them when it is imported, where they tell most. Raises MdslError, OSError."""
    if path.suffix == ".onnx" and sizes:
        from mdsl.importers.onnx import import_onnx

        return import_onnx(path, sizes), {}
    return read_file(path), sizes


def read_file(path: Path) -> ModuleOp:
    """The verified module of a program's file: `.mir` text, or another format that is imported. Raises MdslError,
    OSError."""
    if path.suffix == ".onnx":
        from mdsl.importers.onnx import import_onnx

        return import_onnx(path)
    from mdsl.syntax.parser import parse_file

    return parse_file(path)
