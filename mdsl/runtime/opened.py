"""Programs with open dimensions: binding sizes and inputs' values, at compile time or at a call.

A module is bound by pass `bind`. A model of another format is imported anew with all that is known, which tells more: what
a call gives does whatever `--bind` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsl.compiler.driver import bind_dims
from mdsl.compiler.entry import OpenSpec, Spec, entry, open_dims, open_signature, sized, spec_of
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.frontends.deciding import is_small, undecided
from mdsl.frontends.values import fix_inputs
from mdsl.runtime.signature import sizes_of

if TYPE_CHECKING:
    from mdsl.frontends.onnx import Imported, Source


@dataclass(frozen=True)
class Opened:
    """`source` with `bind`. It `is_open` if a call must give sizes of dimensions or the numbers in the inputs `values`."""

    source: ModuleOp | Source
    bind: Mapping[str, Any]
    module: ModuleOp | None
    """None if there is none before more is known."""
    sizes: Mapping[str, int]
    """Sizes in `bind` that the module has yet to get."""
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    values: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        return bool(self.values or open_dims(self.inputs))

    def files(self, path: Path) -> list[Path]:
        """The other files that the program was read from, which lies in the file `path`."""
        if not isinstance(self.source, ModuleOp):
            return self.source.files()
        from mdsl.syntax.resources import used, weights_path

        return [weights_path(path)] if any(r.external for r in used(self.source).values()) else []

    def given(self, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the inputs `arrays` tell: sizes and values by name. Raises MdslError."""
        named = zip(self.inputs, arrays, strict=True)
        values = {spec.name: plain(array) for spec, array in named if spec.name in self.values}
        return {**sizes_of(self.inputs, arrays), **values}

    def rest(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The `arrays` that are inputs still when the values are known."""
        return [a for spec, a in zip(self.inputs, arrays, strict=True) if spec.name not in self.values]

    def knowing(self, given: Mapping[str, Any]) -> Opened:
        """The program with sizes and values that were not known before. Raises MdslError."""
        return opened(self.source, {**self.bind, **given})

    def __reduce__(self) -> tuple[Any, ...]:
        source = as_text(self.source) if isinstance(self.source, ModuleOp) else self.source
        return _reopened, (source, dict(self.bind))


def _reopened(source: str | Source, bind: Mapping[str, Any]) -> Opened:
    from mdsl.syntax.parser import parse

    return opened(parse(source) if isinstance(source, str) else source, bind)


def as_text(module: ModuleOp) -> str:
    """The module with the data of its constants."""
    from mdsl.syntax.printer import print_module
    from mdsl.syntax.resources import print_section, used

    return print_module(module) + print_section(used(module))


def plain(array: np.ndarray) -> Any:
    """The numbers of an array in nested tuples, or its only one."""
    return tuple(map(plain, array)) if array.ndim else array.item()


def opened(source: ModuleOp | Source, bind: Mapping[str, Any]) -> Opened:
    """The program with what `bind` says of it. Raises MdslError."""
    if not isinstance(source, ModuleOp):
        return _of_import(source, bind, source.imported(bind))
    module = source.clone()
    sizes = fix_inputs(module, bind)
    inputs, outputs = open_signature(module)
    decided = undecided(entry(module).walk())[1]
    values = tuple(str(a.name) for a in entry(module).args if a in decided and is_small(a))
    if not {*open_dims(inputs)} <= {*sizes}:  # it stays open: what is known can be bound once for all calls
        source, bind, sizes = bind_dims(module, sizes), {}, {}
        inputs, outputs = open_signature(module)
    return Opened(source, bind, module, sizes, tuple(sized(s, sizes) for s in inputs), outputs, values)


def for_training(source: ModuleOp | Source, count: int) -> tuple[ModuleOp, ModuleOp]:
    """The modules of what was read: as it is, and for `count` samples where it leaves the sizes of its inputs' first dimensions open; with
    these known the import of a model knows other sizes too. They are one where it cannot be imported without. Raises MdslError."""
    first = [spec.shape[0] for spec in opened(source, {}).inputs if spec.shape]
    sizes = {size: count for size in first if isinstance(size, str)}
    if isinstance(source, ModuleOp):
        return source.clone(), bind_dims(source.clone(), sizes)
    sized = source.module(sizes, weights=True)
    try:
        return source.module({}, weights=True), sized
    except MdslError:
        return sized.clone(), sized


def _of_import(source: Source, bind: Mapping[str, Any], found: Imported) -> Opened:
    if found.module is not None:
        inputs, outputs = open_signature(found.module)
        return Opened(source, bind, found.module, {}, inputs, outputs, found.values)
    ends = [
        spec_of(name, type) if type is not None else OpenSpec(name, "f32", (None,))
        for name, type in found.outputs
    ]
    starts = tuple(spec_of(*part) for part in found.inputs)
    return Opened(source, bind, None, {}, starts, tuple(ends), found.values)
