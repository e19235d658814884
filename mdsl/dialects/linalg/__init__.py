"""linalg: structured ops, the narrow waist. Each is a loop nest: affine maps, iterator kinds, a scalar body.

`linalg.generic` writes all three out. A named op stands for one such nest; its body is built when it is
made or parsed, is hidden in the custom form and written in the generic form, as upstream has it.
The declarations lie in structured.py, named.py and pack.py.
"""

from mdsl.dialects.linalg.named import (
    BatchMatmul,
    Broadcast,
    ConvNchwFchw,
    ConvNhwcHwcf,
    Copy,
    Dot,
    Fill,
    Matmul,
    Matvec,
    Named,
    PoolingMax,
    PoolingSum,
    Transpose,
    Vecmat,
)
from mdsl.dialects.linalg.pack import Pack, Unpack, packed_shape
from mdsl.dialects.linalg.structured import (
    PARALLEL,
    REDUCTION,
    Generic,
    IndexOp,
    LinalgOp,
    Yield,
    element_type,
    iterator_attribute,
    iterator_kind,
    parse_ins_outs,
    print_ins_outs,
    print_results,
    result_types,
    shape_of,
)

__all__ = [
    "PARALLEL",
    "REDUCTION",
    "BatchMatmul",
    "Broadcast",
    "ConvNchwFchw",
    "ConvNhwcHwcf",
    "Copy",
    "Dot",
    "Fill",
    "Generic",
    "IndexOp",
    "LinalgOp",
    "Matmul",
    "Matvec",
    "Named",
    "Pack",
    "PoolingMax",
    "PoolingSum",
    "Transpose",
    "Unpack",
    "Vecmat",
    "Yield",
    "element_type",
    "iterator_attribute",
    "iterator_kind",
    "packed_shape",
    "parse_ins_outs",
    "print_ins_outs",
    "print_results",
    "result_types",
    "shape_of",
]
