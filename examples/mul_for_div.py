"""A pass of one's own: division by a constant becomes multiplication by its reciprocal."""

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import arith, nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Builder
from mdsl.passes.base import Context, Pass
from mdsl.rewriting.constants import constant_data


@dataclass(frozen=True)
class MulForDiv(Pass):
    """Multiply by the reciprocal of a constant instead of dividing by it: faster, and rounded a little differently."""

    name: ClassVar[str] = "mul-for-div"
    level: ClassVar[str | None] = "nn"
    subject = "division by a constant"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in module.walk():
            divisor = constant_data(op.operands[1]) if isinstance(op, nn.Div) else None
            if divisor is None or not divisor.all():
                continue
            build = Builder.before(op)
            reciprocal = arith.Constant(value=arith.constant_attribute(1 / divisor, op.operands[1].type))
            factor = build.value(reciprocal, f"{op.operands[1].name}_reciprocal")
            op.replace_by(build.value(nn.Mul(op.operands[0], factor)), rename=True)
