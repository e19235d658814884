"""Programs of one op, lowered and held to the reference."""

from __future__ import annotations

import numpy as np

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.types import dtype_of, i1, is_float
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

TOLERANCE = {"f64": 1e-12, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}


def program(op: str, inputs: str, result: str, attributes: str = "", name: str = "main") -> str:
    """A function with one nn op; `inputs` are element-type shapes (`2x3xf32`) separated by spaces."""
    types = [f"tensor<{t}>" for t in inputs.split()]
    args = [f"%a{i}" for i in range(len(types))]
    signature = ", ".join(f"{a}: {t}" for a, t in zip(args, types, strict=True))
    body = f"%y = {op} {', '.join(args)} {attributes} : ({', '.join(types)}) -> tensor<{result}>"
    return f"func.func @{name}({signature}) -> tensor<{result}> {{\n  {body}\n  func.return %y : tensor<{result}>\n}}\n"


def arrays(module: ModuleOp, seed: int = 0, low: float = -3, high: float = 3) -> list[np.ndarray]:
    """Random inputs for `@main`."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for arg in module.body.ops[0].body.args:
        type = arg.type
        dtype = dtype_of(type.element)  # type: ignore[attr-defined]
        shape = type.shape  # type: ignore[attr-defined]
        if type.element == i1:  # type: ignore[attr-defined]
            found.append(random.random(shape) < 0.5)
        elif is_float(type):
            found.append(np.asarray(random.uniform(low, high, shape)).astype(dtype))
        else:
            found.append(random.integers(-4, 5, shape).astype(dtype))
    return found


def lowered(text: str) -> ModuleOp:
    module = parse(text, "test.mir")
    verify(module)
    LowerNn().run(module, Context(Target.host()))
    verify(module)
    assert not [op for op in module.walk() if op.name.startswith("nn.")]
    return module


def assert_close(found: np.ndarray, wanted: np.ndarray, element: str, factor: float = 1) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    if element not in TOLERANCE:
        np.testing.assert_array_equal(found, wanted)
        return
    wide, tolerance = wanted.astype(np.float64), TOLERANCE[element] * factor
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


def check(text: str, low: float = -3, high: float = 3, seed: int = 0) -> ModuleOp:
    """The lowered program computes what the graph computes."""
    graph = parse(text, "test.mir")
    inputs = arrays(graph, seed, low, high)
    (wanted,) = run(graph, inputs)
    module = lowered(text)
    (found,) = run(module, inputs)
    element = str(graph.body.ops[0].body.ops[0].result.type.element)  # type: ignore[attr-defined]
    assert_close(found, wanted, element)
    again = parse(print_module(module, data=True), "again.mir")
    assert print_module(again) == print_module(module)
    return module


def identity(case: tuple[str, str, str, str]) -> str:
    """A case's name among tests."""
    return " ".join(case)
