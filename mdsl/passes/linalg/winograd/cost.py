"""winograd: the cost model. Which convolutions gain by Winograd's method, and with what tile.

For N images, T tiles an image, C input and K output channels, in cycles of one thread:

    direct       products(9 N OH OW C K, 9 C K)
    F(m, 3)      PRICE (products(a^2 N T C K, a^2 C K) + 4 a^2 N T (C + K) / L)     with a = m + 2

products(n, w) is the time of n multiply-adds whose w weights come from memory, for those of a whole network do not stay
in the caches from call to call (`target/cost.py`). A transform takes about 4 cycles for each vector of L elements that
it moves to or from the products.

A weight that is no constant is transformed by products(9 a^2 C K, 0) more, and its way is passing(a^2 C K): it is written,
and read again, wherever there is room for it. So are the sums of products for the gradient of filters, and come back from a^2
places at once, at half the rate:

    direct       products(9 N OH OW C K, 0)
    F(m, 3)      PRICE (products(a^2 N T C K, 0) + products(9 a^2 C K, 0) + 2 passing(a^2 C K) + 4 a^2 N T (C + K) / L)

So a transformed weight, 16/9 to 4 times as large, may cost more than it saves where the image is small (7 x 7 pixels
and 128 channels), unless there is a batch. `PRICE` is for what the model leaves out: the larger constants, dispatches
and the copies that a wider border may cost.
"""

from __future__ import annotations

from math import prod

from mdsl.dialects.linalg_ext import PAIRS, TAPS, alpha
from mdsl.ir.typed import shaped_of
from mdsl.passes.linalg.winograd.gradient import FilterGradient
from mdsl.passes.linalg.winograd.match import Conv
from mdsl.rewriting.constants import constant_data
from mdsl.target.cost import Choice, passing_cycles, products_cycles, transform_cycles
from mdsl.target.target import Target

PRICE = 1.25
"""What Winograd's method costs beside what the model counts, as a factor."""


def tilings(conv: Conv, tile: int, force: bool, target: Target) -> Choice[int | None]:
    """The outputs along each side of a tile, and None for the convolution as it stands, with their cycles.

    `tile` (0: any) restricts the choice; with `force` the convolution is never left as it is.
    """
    return Choice.of((m, cycles(conv, m, target)) for m in _candidates(tile, force))


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
    count, points = -(-rows // m) * -(-columns // m), alpha(m) ** 2
    moved = sum(_vectors(v, area, lanes) for v, area in _images(conv))
    products = points * count * channels
    if constant_data(conv.weight) is None:
        computing = _with_filters(products, points * weight, 1, target)
    else:
        computing = products_cycles(products, points * weight, target)
    return PRICE * (computing + transform_cycles(points * count * moved))


def gradient_tilings(found: FilterGradient, tile: int, force: bool, target: Target) -> Choice[int | None]:
    """The same for the gradient of filters."""
    return Choice.of((m, gradient_cycles(found, m, target)) for m in _candidates(tile, force))


def _candidates(tile: int, force: bool) -> list[int | None]:
    sizes = [tile] if tile else list(PAIRS)
    return [*sizes] if force else [*sizes, None]


def gradient_cycles(found: FilterGradient, m: int | None, target: Target) -> float:
    """Estimated cycles of the gradient of filters by F(m, 3), or as it stands (`m` None)."""
    rows, columns = found.size
    pixels = rows * columns
    channels = prod(found.op.loop_sizes()) / (pixels * TAPS**2)
    filters = prod(shaped_of(found.op.outputs[0]).shape) / TAPS**2
    if m is None:
        return products_cycles(TAPS**2 * pixels * channels, 0, target)
    count, points = -(-rows // m) * -(-columns // m), alpha(m) ** 2
    moved = 0.0
    for image in (found.image, found.gradient):
        shape = shaped_of(image.value).shape
        row = image.row(found.pixel_loops[0])
        area = prod(shape[row : row + 2])
        moved += _vectors(shape, area, target.lanes("f32"))
    computing = _with_filters(points * count * channels, points * filters, 2, target)
    return PRICE * (computing + transform_cycles(points * count * moved))


def _with_filters(products: float, points: float, price: float, target: Target) -> float:
    """Cycles of products with, or to, `points` numbers that are made of filters in the same call, or that filters are made of; `price` is
    what their way to memory and back costs, as a factor."""
    return products_cycles(products + TAPS**2 * points, 0, target) + price * passing_cycles(points, target)


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
