"""The reference: what every op means, in NumPy. Simple before fast; passes and engines are tested against it.

`run(module, inputs)` executes a module at any level, from a graph of `nn` ops to vectorized micro-kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import OUTPUT, FunctionLike
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.errors import nearest
from mdsl.ir.core import Value
from mdsl.ir.types import DYNAMIC, MemRefType, ShapedType, dtype_of
from mdsl.reference.evaluator import Evaluator
from mdsl.reference.memory import allocate
from mdsl.reference.registry import EvaluationError

Inputs = Sequence[ArrayLike] | Mapping[str, ArrayLike]


def run(
    module: ModuleOp, inputs: Inputs, function: str | None = None, evaluator: Evaluator | None = None
) -> list[np.ndarray]:
    """Executes `function` (default: `@main`, or the only function) and returns its results. An `evaluator` of the module
    may watch, or do some of it in another way.

    `inputs` are one array an input, in order or by argument name; their shapes and dtypes must be those
    of the arguments. Out-parameters (`{mdsl.output}`) are not inputs, but for those that one was
    donated to: they are allocated here and returned. A function that has neither results nor out-parameters returns the final contents of its
    memrefs. The inputs are never altered. Raises EvaluationError, which is an MdslError.
    """
    entry = entry_point(module, function)
    marked = [OUTPUT in attrs for attrs in entry.arg_attributes()]
    given = _assign(entry, entry.inputs(), inputs)
    arguments = [_input(a, given[a]) if a in given else _output(a) for a in entry.args]
    with np.errstate(all="ignore"):
        results = (evaluator or Evaluator(module)).call(entry, arguments)
    if not results:
        wanted = marked if any(marked) else [isinstance(a.type, MemRefType) for a in entry.args]
        results = [array for array, out in zip(arguments, wanted, strict=True) if out]
    return [np.array(r) for r in results]


def entry_point(module: ModuleOp, name: str | None = None) -> FunctionLike:
    """The function to run: `@name`, else `@main`, else the only `func.func`. Raises EvaluationError."""
    functions = {op.symbol: op for op in module.body.ops if isinstance(op, FunctionLike)}
    if name is not None:
        if name not in functions:
            raise EvaluationError(f"error: no function @{name}{nearest(name, list(functions))}")
        return functions[name]
    main = [op for op in functions.values() if not isinstance(op, UkernelFunc)]
    if "main" in functions:
        return functions["main"]
    if len(main) != 1:
        raise EvaluationError(f"error: no function @main, and {len(main)} others to choose from")
    return main[0]


def _assign(entry: FunctionLike, args: Sequence[Value], inputs: Inputs) -> dict[Value, Any]:
    """Which input belongs to which argument."""
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(args):
            raise EvaluationError(f"error: @{entry.symbol} takes {len(args)} inputs, got {len(inputs)}")
        return dict(zip(args, inputs, strict=True))
    names = [a.name or f"arg{i}" for i, a in enumerate(args)]
    unknown = [n for n in inputs if n not in names]
    if unknown:
        raise EvaluationError(
            f"error: @{entry.symbol} has no input '{unknown[0]}'{nearest(unknown[0], names)}"
        )
    missing = [n for n in names if n not in inputs]
    if missing:
        raise EvaluationError(f"error: input '{missing[0]}' of @{entry.symbol} is missing")
    return {a: inputs[n] for a, n in zip(args, names, strict=True)}


def _input(arg: Value, given: Any) -> Any:
    """`given` as the value of `arg`: checked, and copied where the program may write to it."""
    type = arg.type
    array = np.asarray(given)
    if not isinstance(type, ShapedType):
        dtype = dtype_of(type)
        if array.ndim or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise EvaluationError(
                f"error: input '{arg.name}' must be a number of type {type}, got {_describe(array)}"
            )
        return array.astype(dtype)[()]
    fits = len(type.shape) == array.ndim and all(
        w in (DYNAMIC, s) for w, s in zip(type.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype_of(type.element):
        raise EvaluationError(f"error: input '{arg.name}' must be a {type}, got {_describe(array)}")
    if not isinstance(type, MemRefType):
        return array
    memory = allocate(type, None if type.is_static else array.shape)
    memory[...] = array
    return memory


def _output(arg: Value) -> np.ndarray:
    assert isinstance(arg.type, MemRefType), f"out-parameter %{arg.name} is no memref"
    return allocate(arg.type)


def _describe(array: np.ndarray) -> str:
    return f"an array of shape {list(array.shape)} and dtype {array.dtype}"


__all__ = ["OUTPUT", "EvaluationError", "entry_point", "run"]
