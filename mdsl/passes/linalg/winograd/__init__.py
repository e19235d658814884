"""winograd: 3x3 convolutions with fewer multiplications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.winograd.convolution import ConvolutionRewriter
from mdsl.passes.linalg.winograd.cost import gradient_tilings, tilings
from mdsl.passes.linalg.winograd.gradient import GradientRewriter, filter_gradient_of
from mdsl.passes.linalg.winograd.match import conv_of
from mdsl.passes.linalg.winograd.steps import Padded
from mdsl.rewriting import remarks
from mdsl.target.cost import Choice


@dataclass(frozen=True)
class Winograd(Pass):
    """Compute 3x3 convolutions of stride 1 by Winograd's minimal filtering: fewer multiplications, other rounding.

    Before (maps left out):

        %y = ukernel.region -> tensor<1x4x56x56x16xf32> {
          %c = linalg.generic (convolution) ins(%x, %w : tensor<1x4x58x58x16xf32>, tensor<4x4x3x3x16x16xf32>) ...
          %r = linalg.generic (bias, maximum 0) ins(%c, %bias : ...) ...
        }

    After, with tiles of 4 x 4 outputs, each from 6 x 6 inputs:

        %x_input = linalg_ext.winograd_input_transform {fmr = "F_4_3", ...} ins(%x : ...) outs(... : tensor<6x6x1x4x14x14x16xf32>)
        %v = tensor.collapse_shape %x_input ... into tensor<36x1x4x196x16xf32>
        %m = ukernel.region -> tensor<36x1x4x196x16xf32> {
          %p = linalg.generic (matrix product) ins(%v, %w_winograd : ..., tensor<36x4x4x16x16xf32>) ...
        }
        %p = tensor.expand_shape %m ... into tensor<6x6x1x4x14x14x16xf32>
        %y = linalg_ext.winograd_output_transform {fmr = "F_4_3", ...} ins(%p, %bias : ...) outs(... : tensor<1x4x56x56x16xf32>) {
          (bias, maximum 0)
        }

    36 products instead of 144 for 16 outputs. Constant weights are transformed now, in float64; others, as a network that is trained
    has them, by a product with a matrix of 36 x 9, at each call. A convolution with the filters from last to first, as the gradient of
    an image is, has them transformed so. The gradient of 3x3 filters is computed by the adjoint: `winograd_gradient_transform` makes
    factors of the output's gradient, their products with those of the image are summed over all tiles, and a product with the same
    matrix makes 9 numbers of 36 in front of whatever `fuse` put behind the sum. It works on whatever layout `pack` chose, after `fuse`, so that the output transform takes
    the epilogue in. The transforms become arithmetic when machine code is made of the micro-kernels (`unroll-vectors` shows it).
    `passes/linalg/winograd/cost.py` tells which convolutions gain, and what tile they get.

    Results differ from the plain sum by rounding. Measured against float64 on layers of 64 to 512 channels,
    with weights as in He et al. 2015 and non-negative inputs, the largest error is 3e-7 to 1e-6 of the
    largest output for F(2, 3) and 1.5e-6 to 4e-6 for F(4, 3); that of the plain sum in float32 is 7e-7 to
    2e-6. The gradient of filters errs no more than by the plain sum (4e-7 to 1e-6 and 1e-6 to 3e-6), for it adds fewer
    numbers up. Sums of up to 100 inputs are formed, so that inputs above 1e36 overflow earlier; an infinity or a
    NaN spreads over its tile.
    Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015).
    """

    name: ClassVar[str] = "winograd"
    level: ClassVar[str | None] = "linalg"
    subject = "3x3 convolution"

    tile: int = option(
        0, "outputs along each side of a tile, 2 or 4; 0: what the cost model finds best", least=0
    )
    all: bool = option(False, "every convolution that can be computed so, not only those that gain")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile not in (0, 2, 4):
            raise ValueError(f"option 'tile' must be 0, 2 or 4, got {self.tile}")

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            padded: Padded = {}
            for op in func.body.ops:
                if conv := conv_of(op):
                    chosen = self._choose(op, tilings(conv, self.tile, self.all, context.target))
                    if chosen:
                        ConvolutionRewriter(conv, chosen, padded).run()
                elif gradient := filter_gradient_of(op):
                    chosen = self._choose(op, gradient_tilings(gradient, self.tile, self.all, context.target))
                    if chosen:
                        GradientRewriter(gradient, chosen, padded).run()
            drop_unused(func)

    def _choose(self, op: Op, choice: Choice[int | None]) -> int | None:
        if choice.best:
            remarks.applied(op, f"is computed by F({choice.best}x{choice.best}, 3x3)", tiles=choice)
        else:
            remarks.missed(op, "is cheaper as it is", tiles=choice)
        return choice.best
