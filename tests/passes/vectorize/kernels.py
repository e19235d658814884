"""Kernels for the tests of `vectorize`: text of structured ops, runs before and after, native runs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod

import numpy as np

from mdsl.codegen.kernels import compile_kernels
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.types import SCALARS, MemRefType, dtype_of
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.vectorize import Vectorize
from mdsl.passes.kernels.unroll_vectors import UnrollVectors
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.target.target import Target
from tests.guarding import guarded_copy

MULTIPLY_ADD = {
    "f": "%p = arith.mulf %x0, %x1 : {t}\n%s = arith.addf %y0, %p : {t}\nlinalg.yield %s : {t}",
    "i": "%p = arith.muli %x0, %x1 : {t}\n%s = arith.addi %y0, %p : {t}\nlinalg.yield %s : {t}",
}


def product(element: str) -> str:
    """The body of a contraction."""
    return MULTIPLY_ADD["f" if "f" in element else "i"].format(t=element)


def memref(shape: Sequence[int], element: str = "f32", pad: int = 0) -> str:
    """The type of a memref whose rows lie `pad` elements further apart than they need to."""
    if not pad or len(shape) < 2:
        return str(MemRefType(tuple(shape), SCALARS[element]))
    padded = [*shape[1:-1], shape[-1] + pad, 1]
    strides = [prod(padded[d:]) for d in range(len(shape) - 1)] + [1]
    return f"memref<{'x'.join(map(str, shape))}x{element}, strided<{strides}>>"


def generic(
    ins: Sequence[tuple[str, str, str]],
    outs: Sequence[tuple[str, str, str]],
    kinds: str,
    body: str,
    dims: str,
) -> str:
    """A linalg.generic: operands as (name, type, indices), `kinds` a letter p or r a dimension of `dims`, a body
    that reads %x0.. (inputs) and %y0.. (outputs)."""
    maps = ", ".join(f"affine_map<({', '.join(dims)}) -> ({indices})>" for *_, indices in (*ins, *outs))
    iterators = ", ".join('"parallel"' if k == "p" else '"reduction"' for k in kinds)
    groups = []
    for word, operands in (("ins", ins), ("outs", outs)):
        if operands:
            names, types = ", ".join(o[0] for o in operands), ", ".join(o[1] for o in operands)
            groups.append(f"{word}({names} : {types})")
    args = [f"%x{i}: {_element(o[1])}" for i, o in enumerate(ins)]
    args += [f"%y{i}: {_element(o[1])}" for i, o in enumerate(outs)]
    head = f"{{indexing_maps = [{maps}], iterator_types = [{iterators}]}} {' '.join(groups)}"
    return f"linalg.generic {head} {{\n^bb0({', '.join(args)}):\n{body}\n}}"


def _element(type: str) -> str:
    return type.removeprefix("memref<").split(",")[0].rstrip(">").split("x")[-1]


def kernel(args: dict[str, str], *ops: str) -> str:
    """A micro-kernel of these arguments (name: type) and ops."""
    listed = ", ".join(f"%{name}: {type}" for name, type in args.items())
    body = "\n".join(ops)
    return f"ukernel.func @k({listed}) {{\n{body}\nukernel.return\n}}"


def vectorized(text: str, target: str = "host") -> ModuleOp:
    """The module after the pass; it must verify."""
    module = parse(text, "test.mir")
    verify(module)
    Vectorize().run(module, Context(Target.parse(target)))
    verify(module)
    return module


def kernel_of(module: ModuleOp) -> UkernelFunc:
    func = next(op for op in module.body.ops if isinstance(op, UkernelFunc))
    return func


def names(module: ModuleOp) -> list[str]:
    """The ops of the micro-kernel."""
    return [op.name for op in kernel_of(module).walk()]


def random_inputs(module: ModuleOp, seed: int = 0) -> list[np.ndarray]:
    """Small whole numbers, so that sums are exact in every order."""
    random = np.random.default_rng(seed)
    inputs = []
    for arg in kernel_of(module).args:
        assert isinstance(arg.type, MemRefType)
        dtype = dtype_of(arg.type.element)
        low, high = (0, 2) if dtype == np.bool_ else (-2, 3)
        inputs.append(random.integers(low, high, arg.type.shape).astype(dtype))
    return inputs


def run_native(func: UkernelFunc, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arguments' contents after a native run."""
    kernels = compile_kernels([func], Target.host())
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernels.addresses[func.symbol])
    buffers: list[np.ndarray] = []
    views: list[np.ndarray] = []
    for arg, array in zip(func.args, inputs, strict=True):
        assert isinstance(arg.type, MemRefType)
        memory = guarded_copy(np.zeros(max(arg.type.span, 1), array.dtype))
        strides = [s * array.itemsize for s in arg.type.layout]
        view = np.ndarray(array.shape, array.dtype, memory, 0, strides)
        view[...] = array
        buffers.append(memory)
        views.append(view)
    slots = np.array([b.ctypes.data for b in buffers], np.int64)
    entry(slots.ctypes.data)
    return views


def unrolled(module: ModuleOp, target: str = "host") -> ModuleOp:
    """A vectorized module with vectors of one register each."""
    copy = module.clone()
    UnrollVectors().run(copy, Context(Target.parse(target)))
    verify(copy)
    return copy


def check(text: str, tolerance: float = 0.0, native: bool = True, target: str = "host") -> ModuleOp:
    """Runs the kernel before and after the pass, unrolled, and natively: the results must agree. The unrolled module."""
    before = parse(text, "test.mir")
    inputs = random_inputs(before)
    wanted = run(before, inputs, "k")
    module = vectorized(text, target)
    last = unrolled(module, target)
    results = [run(form, inputs, "k") for form in (module, last)]
    if native:
        results.append(run_native(kernel_of(module), inputs))
    for found in results:
        for left, right in zip(wanted, found, strict=True):
            np.testing.assert_allclose(
                right.astype(np.float64), left.astype(np.float64), rtol=tolerance, atol=tolerance
            )
    return last
