"""Importers: programs in other formats as modules of `nn` ops. One package a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.frontends.onnx import Source

IMPORTERS = {".onnx": "mdsl.frontends.onnx:Source"}
"""What reads and imports a format, by what the names of its files end in."""

MODELS = {"onnx.ModelProto": "mdsl.frontends.onnx:Source"}
"""The same for a model in memory, by the name of its protobuf message."""

SUFFIXES = tuple(IMPORTERS)


def read(path: Path) -> ModuleOp | Source:
    """What is in a program's file: the verified module of a `.mir` text, or a model of another format, which is imported
    with what is bound, for then that tells most. Raises MdslError, OSError."""
    importer = IMPORTERS.get(path.suffix.lower())
    if importer is not None:
        return resolve_name(importer).of(path)
    from mdsl.errors import MdslError
    from mdsl.support.formats import TEXT, advice
    from mdsl.syntax.parser import parse_file

    if why := advice(path, TEXT):
        raise MdslError(f"{path}: error: not a text file{why}")
    return parse_file(path)


def of_model(model: object) -> Source:
    """A model in memory, an `onnx.ModelProto`. Raises MdslError, also for anything else."""
    importer = MODELS.get(getattr(getattr(model, "DESCRIPTOR", None), "full_name", ""))
    if importer is None:
        from mdsl.errors import MdslError

        raise MdslError(
            f"error: a program is a path, a text, a module or an onnx.ModelProto, not of type {type(model).__name__}"
        )
    return resolve_name(importer).of(model)


def module_of(source: ModuleOp | Source, bind: Mapping[str, Any]) -> tuple[ModuleOp, Mapping[str, int]]:
    """The module of what was read, which it may be itself, with the values of inputs that `bind` has, and those sizes in
    `bind` that are yet to be bound. Raises MdslError."""
    from mdsl.dialects.builtin import ModuleOp

    if not isinstance(source, ModuleOp):
        return source.module(bind), {}
    from mdsl.frontends.values import fix_inputs

    return source, fix_inputs(source, bind)
