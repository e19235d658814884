"""The signature of a program's entry function, from its IR; random arrays that fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.compiler.settings import OpenDimsError
from mdsl.errors import MdslError

if TYPE_CHECKING:  # a compiled program is loaded without the IR, which takes longer to import than to run
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.dialects.func import FunctionLike
    from mdsl.ir.types import Type


@dataclass(frozen=True)
class OpenSpec:
    """A named tensor with dimensions that have no size yet: `shape` has their names instead, and None for one
    of an output that has no name."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


Spec = TensorSpec | OpenSpec


def entry(module: ModuleOp) -> FunctionLike:
    """The function that is run: `@main`, or the only one. Raises MdslError."""
    from mdsl.dialects.func import FunctionLike
    from mdsl.dialects.ukernel import UkernelFunc

    functions = [
        op for op in module.body.ops if isinstance(op, FunctionLike) and not isinstance(op, UkernelFunc)
    ]
    for function in functions:
        if function.symbol == "main" or len(functions) == 1:
            return function
    found = ", ".join(f"@{f.symbol}" for f in functions) or "none"
    raise MdslError(f"error: the program has no function @main (functions: {found})")


def signature(module: ModuleOp) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The specs of the entry's inputs and outputs, on any level. Raises MdslError if a dimension has no size."""
    inputs, outputs = open_signature(module)
    return closed(inputs), closed(outputs)


def open_signature(module: ModuleOp) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    """The specs of the entry's inputs and outputs, on any level. Raises MdslError.

    Before bufferization outputs bear the names of the returned values; after it they are the arguments
    that have the attribute `mdsl.output`.
    """
    from mdsl.dialects.func import RESULT, FuncOp
    from mdsl.ir.attributes import python_value

    function = entry(module)
    attributes = function.arg_attributes()
    dims_of = dict(zip(function.args, function.dim_names(), strict=True))
    inputs = [(v, dims_of[v]) for v in function.inputs()]
    outputs = function.outputs()
    called = {v: a[RESULT] for v, a in zip(function.args, attributes, strict=True) if RESULT in a}
    names = [
        str(python_value(called[v])) if v in called else v.name or f"output{i}" for i, v in enumerate(outputs)
    ]
    if not outputs and isinstance(function, FuncOp):
        outputs, names = function.body.terminator.operands, function.result_names()
    return (
        tuple(spec_of(v.name or f"input{i}", v.type, dims) for i, (v, dims) in enumerate(inputs)),
        tuple(spec_of(n, v.type) for n, v in zip(names, outputs, strict=True)),
    )


def closed(specs: Sequence[Spec]) -> tuple[TensorSpec, ...]:
    """The specs, none of which has an open dimension. Raises OpenDimsError with those that there are, MdslError."""
    missing = open_dims(specs)
    if missing:
        raise OpenDimsError(missing, example=next(example(s) for s in specs if isinstance(s, OpenSpec)))
    found = tuple(s for s in specs if isinstance(s, TensorSpec))
    if len(found) < len(specs):
        name = next(s.name for s in specs if isinstance(s, OpenSpec))
        raise MdslError(f"error: the shape of output '{name}' does not follow from the inputs' shapes")
    return found


def open_dims(specs: Iterable[Spec]) -> list[str]:
    """The names of the dimensions that have no size yet, each once."""
    return list(dict.fromkeys(d for spec in specs for d in spec.shape if isinstance(d, str)))


def check_compilable(module: ModuleOp) -> None:
    """Raises MdslError for an input or output that is neither a tensor nor a memref."""
    from mdsl.dialects.func import FuncOp
    from mdsl.ir.types import MemRefType, TensorType

    function = entry(module)
    ends = function.body.terminator.operands if isinstance(function, FuncOp) else []
    for kind, values in (("input", function.args), ("output", ends)):
        for value in values:
            if not isinstance(value.type, TensorType | MemRefType):
                at = function.location
                place = at.beginning if at else ""
                raise MdslError(
                    f"{place}error: {kind} %{value.name} is of type {value.type}: a compiled program takes and gives "
                    f"tensors (tensor<{value.type}> for one number)"
                )


def spec_of(name: str, type: Type, dims: Sequence[str] | None = None) -> Spec:
    """The spec of an input or output of this type; `dims` are the names of an input's dimensions."""
    from mdsl.ir.types import DYNAMIC, MemRefType, ShapedType, TensorType

    if not isinstance(type, TensorType | MemRefType):
        return TensorSpec(name, str(type), ())
    assert isinstance(type, ShapedType)
    if type.is_static:
        return TensorSpec(name, str(type.element), type.shape)
    names = dims or [None] * type.rank
    shape = tuple(n if s == DYNAMIC else s for s, n in zip(type.shape, names, strict=True))
    return OpenSpec(name, str(type.element), shape)


def sized(spec: Spec, sizes: Mapping[str, int]) -> Spec:
    """The spec with these sizes of its dimensions."""
    shape = tuple(sizes.get(s, s) if isinstance(s, str) else s for s in spec.shape)
    numbers = tuple(s for s in shape if isinstance(s, int))
    closed = len(numbers) == len(shape)
    return TensorSpec(spec.name, spec.dtype, numbers) if closed else OpenSpec(spec.name, spec.dtype, shape)


def describe(spec: Spec) -> str:
    """`1x784xf32`; `?x784xf32` where a size is open."""
    return "x".join([*("?" if not isinstance(s, int) else str(s) for s in spec.shape), spec.dtype])


def example(spec: Spec) -> str:
    """An array for the input, as `--input` takes it: `image=2x784xf32=random`."""
    return f"{spec.name}={describe(spec).replace('?', '2')}=random"


def random_array(spec: TensorSpec, generator: np.random.Generator) -> np.ndarray:
    """Standard normal numbers for floats, 0 to 9 for integers, either truth value for i1."""
    dtype = DTYPES[spec.dtype]
    if spec.dtype == "i1":
        return generator.integers(0, 2, spec.shape).astype(dtype)
    if spec.dtype[0] == "i":
        return generator.integers(0, 10, spec.shape).astype(dtype)
    return generator.standard_normal(spec.shape, np.float32).astype(dtype)


def random_arrays(specs: Sequence[TensorSpec], seed: int = 0) -> list[np.ndarray]:
    """One array an input, the same for the same seed."""
    generator = np.random.default_rng(seed)
    return [random_array(spec, generator) for spec in specs]
