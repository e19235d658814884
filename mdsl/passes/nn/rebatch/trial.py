"""rebatch: whether a network computes of several samples together what it computes of each."""

from __future__ import annotations

import numpy as np

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseResourceAttr, Resource, is_splat
from mdsl.ir.core import Region
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, dtype_of, is_float
from mdsl.reference import run
from mdsl.rewriting.constants import constant_data


def same_alone(network: FuncOp, together: FuncOp, count: int) -> bool:
    """True if `together`, on twice as many samples, gives what `network` gives on `count` at a time. Numbers are made up, those of matrices that
    are one number, too: such a matrix would not show who reads what."""
    random = np.random.default_rng(0)
    made = [_array(argument.type, random) for argument in together.args]
    modules = [_module(f, np.random.default_rng(1)) for f in (network, together)]
    try:
        whole = run(modules[1], made)
    except MdslError:
        return False
    halves: list[list[np.ndarray]] = []
    for half in range(2):
        start = half * count
        part = [
            array[start : start + count] if argument.type != other.type else array
            for array, argument, other in zip(made, network.args, together.args, strict=True)
        ]
        try:
            halves.append(run(modules[0], part))
        except MdslError:
            return False
    return all(_agree(*found) for found in zip(whole, *halves, strict=True))


def _agree(whole: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """True if a result consists of those of its halves, or is their mean or their sum, as a loss is."""
    stacked = [np.concatenate([one, other])] if one.ndim else []
    return any(
        found.shape == whole.shape and np.allclose(found, whole, rtol=1e-3, atol=1e-4, equal_nan=True)
        for found in (*stacked, (one + other) / 2, one + other)
    )


def _array(type: object, random: np.random.Generator) -> np.ndarray:
    assert isinstance(type, TensorType)
    if is_float(type):
        return random.uniform(0.25, 1, type.shape).astype(dtype_of(type.element))
    return random.integers(0, 2, type.shape).astype(dtype_of(type.element))


def _module(function: FuncOp, random: np.random.Generator) -> ModuleOp:
    module = ModuleOp(results=[], regions=[Region()])
    copy = function.clone()
    for op in copy.body.ops:
        data = constant_data(op.result) if isinstance(op, Constant) else None
        if data is not None and data.ndim > 1 and is_float(op.results[0].type) and is_splat(data):
            type = tensor_of(op.results[0])
            op.attributes["value"] = DenseResourceAttr("made_up", type, Resource(_array(type, random)))
    module.body.append(copy)
    return module
