"""Importers: programs in other formats as modules of `nn` ops. One package a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp

IMPORTERS = {".onnx": "mdsl.frontends.onnx:import_onnx"}
"""The function that imports a format, by what the names of its files end in."""

MODELS = {"onnx.ModelProto": "mdsl.frontends.onnx:import_model"}
"""The function that imports a model in memory, by the name of its protobuf message."""

SUFFIXES = tuple(IMPORTERS)


def read(path: Path, sizes: Mapping[str, int]) -> tuple[ModuleOp, Mapping[str, int]]:
    """The verified module of a program's file, `.mir` text or another format, and those of the `sizes` of its
    dimensions that are yet to be bound: a model of another format takes them when it is imported, where they tell
    most. Raises MdslError, OSError."""
    importer = IMPORTERS.get(path.suffix.lower())
    if importer is not None:
        return resolve_name(importer)(path, sizes), {}
    from mdsl.errors import MdslError
    from mdsl.support.formats import TEXT, advice
    from mdsl.syntax.parser import parse_file

    if why := advice(path, TEXT):
        raise MdslError(f"{path}: error: not a text file{why}")
    return parse_file(path), sizes


def of_model(model: object, sizes: Mapping[str, int]) -> ModuleOp:
    """The module of a model in memory, an `onnx.ModelProto`, with these sizes of its dimensions. Raises MdslError, also
    for anything else."""
    importer = MODELS.get(getattr(getattr(model, "DESCRIPTOR", None), "full_name", ""))
    if importer is None:
        from mdsl.errors import MdslError

        raise MdslError(
            f"error: a program is a path, a text, a module or an onnx.ModelProto, not of type {type(model).__name__}"
        )
    return resolve_name(importer)(model, sizes)
