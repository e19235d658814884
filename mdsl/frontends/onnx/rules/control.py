"""Rules for control flow (If, Loop, Scan), which `nn` does not have: branches are selected, loops unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.tensors import tensor_type
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, dtype_of, shapes_agree

MAX_TRIPS = 1024


@converts("If")
def if_(node: Node) -> list[Value | None]:
    """One branch if the condition is known; else both run, and each output is one of their two."""
    known = node.constant(0)
    if known is not None:
        if known.size != 1:
            raise node.malformed(f"the condition has {known.size} elements")
        return list(node.body("then_branch" if bool(known.reshape(-1)[0]) else "else_branch"))
    condition = node.reshape(node.operand(0), [], "condition")
    with node.graph.under(condition):
        then, otherwise = node.body("then_branch"), node.body("else_branch")
    if len(then) != len(otherwise):
        raise node.malformed(f"one branch has {len(then)} outputs, the other {len(otherwise)}")
    for a, b in zip(then, otherwise, strict=True):
        if (
            not shapes_agree(tensor_of(a).shape, tensor_of(b).shape)
            or tensor_of(a).element != tensor_of(b).element
        ):
            raise node.unsupported(
                f"the condition is not known, and one branch gives {tensor_of(a)}, the other {tensor_of(b)}"
            )
    pairs = zip(then, otherwise, strict=True)
    return [a if a is b else node.build(nn.Select(condition, a, b)) for a, b in pairs]


@converts("Loop")
def loop(node: Node) -> list[Value | None]:
    """Unrolled: how often it runs must be known, or at least how often at most.

    An iteration whose condition is not known runs, and its results count only where the condition held; then
    there may be no outputs that collect what every iteration gives, for their length is not known.
    """
    limit = None if node.input(0) is None else _trip_count(node)
    running: bool | Value = True if node.input(1) is None else _condition(node, node.operand(1))
    carried = [node.operand(i) for i in range(2, len(node.inputs))]
    collected: list[list[Value]] = [[] for _ in range(len(node.outputs) - len(carried))]
    trip = 0
    while running is not False and (limit is None or trip < limit):
        if trip >= MAX_TRIPS:
            raise node.unsupported(f"the loop runs more than {MAX_TRIPS} times, or its end is not known")
        if isinstance(running, Value) and limit is None:
            raise node.unsupported("neither the number of iterations nor the condition is known")
        number = node.const(np.array(trip, np.int64), f"trip{trip}")
        arguments = [number, node.const(np.array(True), "running"), *carried]
        with node.graph.under(running) if isinstance(running, Value) else nullcontext():
            found = node.body("body", arguments)
        if len(found) != 1 + len(carried) + len(collected):
            raise node.malformed(
                f"the body has {len(found)} outputs, not {1 + len(carried) + len(collected)}"
            )
        after, new, pieces = found[0], found[1 : len(carried) + 1], found[len(carried) + 1 :]
        if isinstance(running, Value) and pieces:
            raise node.unsupported("the condition is not known, and the loop collects a result a round")
        carried = [_kept(node, running, a, b) for a, b in zip(new, carried, strict=True)]
        for pile, piece in zip(collected, pieces, strict=True):
            pile.append(piece)
        running = _both(node, running, _condition(node, after))
        trip += 1
    return [*carried, *(_stacked(node, i, pile, len(carried)) for i, pile in enumerate(collected))]


def _trip_count(node: Node) -> int | None:
    known = node.constant(0)
    if known is None:
        raise node.unsupported("the number of iterations is not known at import")
    return int(known.reshape(-1)[0])


def _condition(node: Node, value: Value) -> bool | Value:
    known = node.constant(value)
    return value if known is None else bool(known.reshape(-1)[0])


def _both(node: Node, a: bool | Value, b: bool | Value) -> bool | Value:
    if a is False or b is False:
        return False
    if a is True:
        return b
    return a if b is True else node.build(nn.And(a, b), "running")


def _kept(node: Node, running: bool | Value, new: Value, old: Value) -> Value:
    """What a variable is after an iteration that may not have run."""
    if running is True or new is old:
        return new
    assert isinstance(running, Value)
    if tensor_of(new) != tensor_of(old):
        raise node.unsupported(
            f"a variable changes from {tensor_of(old)} to {tensor_of(new)} under an unknown condition"
        )
    return node.build(nn.Select(node.reshape(running, [], "condition"), new, old), "kept")


def _stacked(node: Node, index: int, pieces: Sequence[Value], carried: int) -> Value:
    """The results of the iterations along a new first dimension."""
    if pieces:
        return _joined(node, pieces, 0)
    type = tensor_type(node.attr("body").output[1 + carried + index].type)
    if DYNAMIC in type.shape:
        raise node.unsupported("the loop never runs, and the shape of what it collects is not known")
    return node.const(np.zeros((0, *type.shape), dtype_of(type.element)), "empty")


def _joined(node: Node, pieces: Sequence[Value], axis: int) -> Value:
    """The pieces along a new dimension `axis`."""
    sizes = node.sizes(pieces[0])
    rows = [node.reshape(p, [*sizes[:axis], 1, *sizes[axis:]], f"row{i}") for i, p in enumerate(pieces)]
    return rows[0] if len(rows) == 1 else node.build(nn.Concat(rows, axis=axis))


@converts("Scan", since=9)
def scan(node: Node) -> list[Value | None]:
    """Unrolled: the body runs over slices of the scanned inputs, and what it gives beside its state is stacked."""
    count = node.attr("num_scan_inputs")
    states = len(node.inputs) - count
    if count < 1 or states < 0:
        raise node.malformed(f"{len(node.inputs)} inputs, of which {count} are scanned")
    scanned = [node.expr(i) for i in range(states, len(node.inputs))]
    settings = _settings(node, "scan_input_axes", count), _settings(node, "scan_input_directions", count)
    axes = [node.axis(a, x.type.rank) for x, a in zip(scanned, settings[0], strict=True)]
    lengths = {x.shape[a] for x, a in zip(scanned, axes, strict=True)}
    if len(lengths) != 1 or DYNAMIC in lengths:
        raise node.unsupported("the scanned inputs do not have one known length")
    (length,) = lengths
    if not 0 < length <= MAX_TRIPS:
        raise node.unsupported(f"a scan over {length} elements (1 to {MAX_TRIPS} are unrolled)")
    state, rows = [node.operand(i) for i in range(states)], list[list[Value]]()
    for trip in range(length):
        slices = [
            _element(x, axis, length - 1 - trip if back else trip)
            for x, axis, back in zip(scanned, axes, settings[1], strict=True)
        ]
        found = node.body("body", [*state, *slices])
        state = found[:states]
        rows.append(found[states:])
    piles = list(zip(*rows, strict=True))
    at, reverse = (_settings(node, f"scan_output_{what}", len(piles)) for what in ("axes", "directions"))
    stacked = [
        _joined(node, pile[::-1] if back else pile, node.axis(axis, tensor_of(pile[0]).rank + 1))
        for pile, axis, back in zip(piles, at, reverse, strict=True)
    ]
    return [*state, *stacked]


def _settings(node: Node, name: str, count: int) -> list[int]:
    """A number for each scanned input or output, 0 if nothing is said."""
    found: list[int] = node.attr(name, [0] * count)
    if len(found) != count:
        raise node.malformed(f"{name} must hold {count} numbers, got {len(found)}")
    return found


def _element(x: Expr, axis: int, position: int) -> Value:
    """`x` at a position along an axis, which it loses."""
    sizes = x.node.sizes(x.value)
    return x.slice(axis, position, position + 1).reshape([*sizes[:axis], *sizes[axis + 1 :]]).value
