"""Meaning of the affine dialect."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.ir.affine import AffineMap
from mdsl.ir.core import Op
from mdsl.reference.registry import semantics


@semantics("affine.apply")
def apply(op: Op, *operands: Any) -> Any:
    map: AffineMap = op.attr("map")
    return np.int64(0) + map.evaluate(operands[: map.num_dims], operands[map.num_dims :])[0]
