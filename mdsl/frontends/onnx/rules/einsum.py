"""The rule for Einsum: sums of products over named dimensions, as matrix products of pairs of operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import gather_flat, times
from mdsl.frontends.onnx.registry import Node, Size, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC

Labels = tuple[str, ...]


@converts("Einsum")
def einsum(node: Node) -> Value:
    operands = [node.operand(i) for i in range(len(node.inputs))]
    terms, wanted = _parse(node, [tensor_of(v).rank for v in operands])
    pairs = [_single(node, v, t, i) for i, (v, t) in enumerate(zip(operands, terms, strict=True))]
    total, labels = pairs[0]
    for i, (value, term) in enumerate(pairs[1:], 1):
        later = {label for _, other in pairs[i + 1 :] for label in other}
        total, labels = _contract(node, total, labels, value, term, {*wanted, *later}, f"product{i}")
    total, labels = _summed(node, total, labels, set(wanted), "sum")
    order = [labels.index(label) for label in wanted]
    if order == list(range(len(order))):
        return total
    return node.build(nn.Transpose(total, perm=order))


def _parse(node: Node, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each operand's dimensions and of the result's; `...` becomes labels `.1`, `.2`, from the end."""
    equation = node.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    if len(texts) != len(ranks):
        raise node.malformed(f"equation '{equation}' has {len(texts)} terms for {len(ranks)} inputs")
    terms = [_labels(node, text, rank) for text, rank in zip(texts, ranks, strict=True)]
    dots = sorted({d for t in terms for d in t if d.startswith(".")}, key=lambda d: -int(d[1:]))
    if arrow:
        head, ellipsis, tail = right.partition("...")
        wanted = (*head, *(dots if ellipsis else []), *tail)
    else:
        counts = Counter(d for t in terms for d in t)
        wanted = (*dots, *sorted(d for d, n in counts.items() if n == 1 and not d.startswith(".")))
    known = {d for t in terms for d in t}
    if len(set(wanted)) != len(wanted) or not known.issuperset(wanted):
        raise node.malformed(f"equation '{equation}' has a result that its terms do not determine")
    return terms, wanted


def _labels(node: Node, text: str, rank: int) -> Labels:
    head, ellipsis, tail = text.partition("...")
    rest = rank - len(head) - len(tail)
    if rest < 0 or (rest and not ellipsis):
        raise node.malformed(f"'{text}' does not fit an input of {rank} dimensions")
    return (*head, *(f".{i}" for i in range(rest, 0, -1)), *tail)


def _single(node: Node, x: Value, labels: Labels, number: int) -> tuple[Value, Labels]:
    """An operand each of whose labels stands once: of repeated ones the diagonal."""
    if len(set(labels)) == len(labels):
        return x, labels
    unique = tuple(dict.fromkeys(labels))
    node.static(x)
    shape = tensor_of(x).shape
    sizes = dict(zip(labels, shape, strict=True))
    if any(sizes[label] != size for label, size in zip(labels, shape, strict=True)):
        raise node.malformed(f"dimensions of one name differ in {tensor_of(x)}")
    steps = dict.fromkeys(unique, 0)
    for d, label in enumerate(labels):
        steps[label] += prod(shape[d + 1 :])
    places = np.zeros([sizes[u] for u in unique], np.int64)
    for axis, label in enumerate(unique):
        counter = np.arange(sizes[label]) * steps[label]
        places = places + counter.reshape([-1 if a == axis else 1 for a in range(len(unique))])
    return gather_flat(node, x, node.const(places, f"places{number}"), f"diagonal{number}"), unique


def _summed(node: Node, x: Value, labels: Labels, kept: Collection[str], suffix: str) -> tuple[Value, Labels]:
    """`x` summed over the labels that nobody needs."""
    axes = [d for d, label in enumerate(labels) if label not in kept]
    if not axes:
        return x, labels
    total = node.build(nn.Reduce(x, kind="sum", axes=axes, keepdims=False), suffix)
    return total, tuple(label for label in labels if label in kept)


def _contract(
    node: Node, a: Value, left: Labels, b: Value, right: Labels, kept: Collection[str], suffix: str
) -> tuple[Value, Labels]:
    """The product of two operands, summed over the labels that both have and nobody else needs: a product of
    matrices, (batch, rows, inner) with (batch, inner, columns)."""
    a, left = _summed(node, a, left, {*kept, *right}, f"{suffix}_left_sum")
    b, right = _summed(node, b, right, {*kept, *left}, f"{suffix}_right_sum")
    sizes = _sizes(node, a, left, b, right)
    known = {label: size if isinstance(size, int) else DYNAMIC for label, size in sizes.items()}
    a = node.broadcast(a, [known[label] for label in left], f"{suffix}_left_wide")
    b = node.broadcast(b, [known[label] for label in right], f"{suffix}_right_wide")
    batch = tuple(d for d in left if d in right and d in kept)
    inner = tuple(d for d in left if d in right and d not in kept)
    rows, columns = tuple(d for d in left if d not in right), tuple(d for d in right if d not in left)

    def matrix(x: Value, labels: Labels, groups: Sequence[Labels], name: str) -> Value:
        order = [labels.index(d) for group in groups for d in group]
        if order != sorted(order):
            x = node.build(nn.Transpose(x, perm=order), f"{suffix}_{name}_transposed")
        shape = [times(node, [sizes[d] for d in group]) for group in groups]
        return node.reshape(x, shape if batch else shape[1:], f"{suffix}_{name}")

    one = matrix(a, left, (batch, rows, inner), "left")
    two = matrix(b, right, (batch, inner, columns), "right")
    product = node.build(nn.Matmul(one, two) if inner else nn.Mul(one, two), f"{suffix}_matrices")
    labels = (*batch, *rows, *columns)
    return node.reshape(product, [sizes[d] for d in labels], suffix), labels


def _sizes(node: Node, a: Value, left: Labels, b: Value, right: Labels) -> dict[str, Size]:
    """The size of each label; a 1 stretches, and what is open is what it meets."""
    found: dict[str, Size] = dict(zip(left, node.sizes(a), strict=True))
    for label, size in zip(right, node.sizes(b), strict=True):
        known = found.setdefault(label, size)
        if isinstance(known, int) and isinstance(size, int):
            if known != size and 1 not in (known, size):
                raise node.malformed(f"dimension '{label}' is {known} and {size}")
            found[label] = size if known == 1 else known
        elif 1 in (known, size):
            raise node.unsupported(f"dimension '{label}' is 1 and open, in {tensor_of(a)} and {tensor_of(b)}")
        elif isinstance(size, int):
            found[label] = size
    return found
