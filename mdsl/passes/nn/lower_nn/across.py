"""lower-nn: what processes add up, a micro-kernel that the caller of the program takes part in."""

from __future__ import annotations

from mdsl.dialects import linalg, nn, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import StringAttr, SymbolRefAttr
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, wide
from mdsl.passes.nn.lower_nn.build import Emitter, lowers
from mdsl.passes.nn.lower_nn.elementwise import converted
from mdsl.support.across import ACROSS


@lowers("nn.all_reduce")
def all_reduce(e: Emitter, op: nn.AllReduce) -> Value:
    """The numbers stand one behind the other, in f32 or f64: as those who add them up take them."""
    own = tensor_of(op.x)
    type = TensorType((own.size,), wide(own.element))
    parts = _cast(e, e.reshape(op.x, type.shape, "flat"), type.element, "part")
    kernel = _kernel(e, op.attr("kind"), type)
    init = e.empty(type.shape, type.element)
    call = ukernel.Dispatch([parts, init], results=[type], callee=SymbolRefAttr(kernel))
    whole = e.value(call, None if own == type else "whole")
    return e.reshape(_cast(e, whole, own.element, None if own.rank == 1 else "narrow"), own.shape)


def _cast(e: Emitter, x: Value, element: Type, suffix: str | None) -> Value:
    type = tensor_of(x)
    if type.element == element:
        return x
    return e.map([(x, [0])], type.shape, element, lambda s, v: converted(s, v, element), suffix)


def _kernel(e: Emitter, kind: str, type: TensorType) -> str:
    """The name of the kernel for tensors of that type, one for all ops."""
    key = f"all_reduce_{kind}_{type.size}x{type.element}"
    if key not in e.shared.kernels:
        module = next(a for a in e.op.ancestors() if isinstance(a, ModuleOp))
        name = module.fresh_symbol(key)
        func = ukernel.UkernelFunc.make(name, [type, type], [type], ["part", "whole"])
        func.attributes[ACROSS] = StringAttr(kind)
        func.location = e.op.location
        copy = func.body.append(linalg.Copy.make([func.args[0]], [func.args[1]]))
        copy.result.name = "copied"
        func.body.append(ukernel.Return(copy.results, results=[]))
        module.body.append(func)
        e.shared.kernels[key] = name
    return e.shared.kernels[key]
