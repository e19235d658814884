"""winograd: the cost model. Which convolutions gain by Winograd's method, and with what tile.

For N images, T tiles an image, C input and K output channels, in cycles of one thread:

    direct       9 N OH OW C K / F + stream(9 C K)
    F(m, 3)      a^2 N T C K / F + stream(a^2 C K) + 4 a^2 N T (C + K) / L     with a = m + 2

F is the multiply-adds a cycle (two vectors of L elements). Weights come from memory, for those of a whole network
do not stay in the caches from call to call: stream(n) is the time that n of them take (`target/cost.py`). A transform
takes about 4 cycles for each vector that it moves to or from the products.

So a transformed weight, 16/9 to 4 times as large, costs more than it saves where the image is small (7 x 7
pixels and 512 channels), unless there is a batch. A convolution must gain `LEAST`: the larger constants
have their price too, and the model leaves out dispatches and the copies that a wider border may cost.
"""

from __future__ import annotations

from math import prod

from mdsl.ir.typed import shaped_of
from mdsl.passes.linalg.winograd.match import Conv
from mdsl.passes.linalg.winograd.transform import PAIRS, TAPS, alpha
from mdsl.target.cost import products_cycles, transform_cycles
from mdsl.target.target import Target

LEAST = 1.4
"""By how many times the cycles must become fewer."""


def best_tile(conv: Conv, tile: int, force: bool, target: Target) -> int | None:
    """The outputs along each side of a tile; None if the convolution is better left alone.

    `tile` (0: any) restricts the choice; with `force` the best tile is taken even if it gains nothing.
    """
    choices = [tile] if tile else list(PAIRS)
    best = min(choices, key=lambda m: cycles(conv, m, target))
    return best if force or LEAST * cycles(conv, best, target) <= cycles(conv, None, target) else None


def cycles(conv: Conv, m: int | None, target: Target) -> float:
    """Estimated cycles of the convolution by F(m, 3), or as it stands (`m` None)."""
    lanes = target.lanes("f32")
    rows, columns = conv.size
    pixels = rows * columns
    # Everything that is summed or made at one pixel by one tap: N C K.
    channels = prod(conv.op.loop_sizes()) / (pixels * TAPS**2)
    weight = prod(shaped_of(conv.weight).shape) / TAPS**2
    if m is None:
        return products_cycles(TAPS**2 * pixels * channels, TAPS**2 * weight, target)
    tiles, points = -(-rows // m) * -(-columns // m), alpha(m) ** 2
    moved = sum(_vectors(v, area, lanes) for v, area in _images(conv))
    products = products_cycles(points * tiles * channels, points * weight, target)
    return products + transform_cycles(points * tiles * moved)


def _images(conv: Conv) -> list[tuple[tuple[int, ...], int]]:
    """Shapes of the input and the output, and their pixels."""
    image, out = shaped_of(conv.image).shape, shaped_of(conv.op.outputs[0]).shape
    h, w = conv.image_dims
    return [(image, image[h] * image[w]), (out, conv.size[0] * conv.size[1])]


def _vectors(shape: tuple[int, ...], pixels: int, lanes: int) -> float:
    """Vectors at one pixel, those of all images and channels; as many as elements if channels are not innermost."""
    elements = prod(shape) / pixels
    innermost = shape[-1] if elements % shape[-1] == 0 else 1
    return elements / min(innermost, lanes)
