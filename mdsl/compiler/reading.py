"""Reading a program: `.mir` text, models of other formats, modules in memory; each gives a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.frontends import importer_of
from mdsl.support.formats import TEXT, advice
from mdsl.syntax.parser import parse_file

if TYPE_CHECKING:
    from mdsl.frontends.onnx import Source


def read(path: Path) -> ModuleOp | Source:
    """What is in a program's file: the verified module of a `.mir` text, or a model of another format, which is imported
    with what is bound, for then that tells most. Raises MdslError, OSError."""
    importer = importer_of(path.suffix)
    if importer is not None:
        return importer.of(path)
    if why := advice(path, TEXT):
        raise MdslError(f"{path}: error: not a text file{why}")
    return parse_file(path)


def module_of(
    source: ModuleOp | Source, bind: Mapping[str, Any], weights: bool = False
) -> tuple[ModuleOp, Mapping[str, int]]:
    """The module of what was read, which it may be itself, with the values of inputs that `bind` has, and those sizes in
    `bind` that are yet to be bound. With `weights` the parameters of a model of another format are marked and stay apart, else they are
    folded as far as can be, as in what is run. Raises MdslError."""
    if not isinstance(source, ModuleOp):
        return source.module(bind, weights), {}
    from mdsl.frontends.values import fix_inputs

    return source, fix_inputs(source, bind)
