"""A program's inputs and outputs: names, dtypes and shapes, the check of arrays against them, random arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import OUTPUT, FuncOp, FunctionLike
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import Value
from mdsl.ir.types import MemRefType, ShapedType, TensorType
from mdsl.syntax.errors import MdslError, nearest


def entry(module: ModuleOp) -> FunctionLike:
    """The function that is run: `@main`, or the only one. Raises MdslError."""
    functions = [
        op for op in module.body.ops if isinstance(op, FunctionLike) and not isinstance(op, UkernelFunc)
    ]
    for function in functions:
        if function.symbol == "main" or len(functions) == 1:
            return function
    found = ", ".join(f"@{f.symbol}" for f in functions) or "none"
    raise MdslError(f"error: the program has no function @main (functions: {found})")


def signature(module: ModuleOp) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The specs of the entry's inputs and outputs, on any level. Raises MdslError.

    Before bufferization outputs bear the names of the returned values; after it they are the arguments
    that have the attribute `mdsl.output`.
    """
    function = entry(module)
    attributes = function.arg_attributes()
    is_output = [OUTPUT in a for a in attributes]
    inputs = [v for v, out in zip(function.args, is_output, strict=True) if not out]
    outputs = [v for v, out in zip(function.args, is_output, strict=True) if out]
    names = [v.name or f"output{i}" for i, v in enumerate(outputs)]
    if not outputs and isinstance(function, FuncOp):
        outputs, names = function.body.terminator.operands, function.result_names()
    return (
        tuple(_spec(v.name or f"input{i}", v, "input") for i, v in enumerate(inputs)),
        tuple(_spec(n, v, "output") for n, v in zip(names, outputs, strict=True)),
    )


def check_compilable(module: ModuleOp) -> None:
    """Raises MdslError for a scalar input or output: a compiled program works on memory."""
    function = entry(module)
    ends = function.body.terminator.operands if isinstance(function, FuncOp) else []
    for kind, values in (("input", function.args), ("output", ends)):
        for value in values:
            if not isinstance(value.type, TensorType | MemRefType):
                at = function.location
                place = f"{at.file}:{at.line}:{at.column}: " if at else ""
                raise MdslError(
                    f"{place}error: {kind} %{value.name} is of type {value.type}: a compiled program takes and gives "
                    f"tensors (tensor<{value.type}> for one number)"
                )


def _spec(name: str, value: Value, kind: str) -> TensorSpec:
    type = value.type
    if not isinstance(type, TensorType | MemRefType):
        return TensorSpec(name, str(type), ())
    if not type.is_static:
        raise MdslError(
            f"error: {kind} %{name} is {type}: a program's dimensions must be known when it is compiled"
        )
    assert isinstance(type, ShapedType)
    return TensorSpec(name, str(type.element), type.shape)


def describe(spec: TensorSpec) -> str:
    """`1x784xf32`."""
    return "x".join([*map(str, spec.shape), spec.dtype])


def checked(array: object, spec: TensorSpec) -> np.ndarray:
    """`array`, contiguous and aligned, if it fits `spec`. Raises MdslError naming the input.

    Nothing is converted that could lose precision or hide a mistake: the dtype must be the spec's.
    """
    found = np.asarray(array)
    wanted = DTYPES[spec.dtype]
    if found.dtype != wanted:
        hint = f"; convert it with .astype('{wanted}')"
        raise MdslError(
            f"error: input '{spec.name}' must be {describe(spec)}, got an array of dtype {found.dtype}{hint}"
        )
    if found.shape != spec.shape:
        got = "x".join(map(str, found.shape)) or "a scalar"
        raise MdslError(f"error: input '{spec.name}' must be {describe(spec)}, got an array of shape {got}")
    return np.require(found, requirements=["C", "A"])


def arrange(
    specs: Sequence[TensorSpec], positional: Sequence[object], named: Mapping[str, object]
) -> list[np.ndarray]:
    """The arrays of a call in the order of `specs`, checked. Raises MdslError."""
    names = [spec.name for spec in specs]
    takes = f"the program takes {', '.join(f'{s.name}: {describe(s)}' for s in specs) or 'no inputs'}"
    if len(positional) > len(specs):
        raise MdslError(f"error: got {len(positional)} inputs; {takes}")
    given = dict(zip(names, positional, strict=False))
    for name, array in named.items():
        if name not in names:
            raise MdslError(f"error: no input '{name}'{nearest(name, names)}; {takes}")
        if name in given:
            raise MdslError(f"error: input '{name}' was given twice")
        given[name] = array
    missing = [name for name in names if name not in given]
    if missing:
        raise MdslError(f"error: input '{missing[0]}' is missing; {takes}")
    return [checked(given[spec.name], spec) for spec in specs]


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
