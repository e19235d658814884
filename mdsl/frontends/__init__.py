"""Importers: programs in other formats as modules of `nn` ops. One package a format."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.frontends.onnx import Source

IMPORTERS = {".onnx": "mdsl.frontends.onnx:Source"}
"""What reads and imports a format, by what the names of its files end in."""

MODELS = {"onnx.ModelProto": "mdsl.frontends.onnx:Source"}
"""The same for a model in memory, by the name of its protobuf message."""

SUFFIXES = tuple(IMPORTERS)


def importer_of(suffix: str) -> type[Source] | None:
    """What reads and imports files whose names end so."""
    name = IMPORTERS.get(suffix.lower())
    return None if name is None else resolve_name(name)


def of_model(model: object) -> Source:
    """A model in memory, an `onnx.ModelProto`. Raises MdslError, also for anything else."""
    importer = MODELS.get(getattr(getattr(model, "DESCRIPTOR", None), "full_name", ""))
    if importer is None:
        from mdsl.errors import MdslError

        raise MdslError(
            f"error: a program is a path, a text, a module or an onnx.ModelProto, not of type {type(model).__name__}"
        )
    return resolve_name(importer).of(model)
