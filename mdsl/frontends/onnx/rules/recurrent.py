"""Rules for recurrent networks: one matrix product for the inputs of all time steps, then a loop over time.

Letters in shapes: T time steps, B batch, I inputs, H units, D directions, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from mdsl.dialects import nn
from mdsl.dialects.nn.base import product
from mdsl.frontends.onnx.activations import ACTIVATIONS
from mdsl.frontends.onnx.building import along
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.loops import backwards, entry, repeat, uninitialised, with_entry
from mdsl.frontends.onnx.registry import Node, Size, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, i64

Apply = Callable[[Expr], Expr]
"""Builds the activation of a value."""

_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass
class Direction:
    """One direction of the network, its weights taken apart."""

    node: Node
    weight: Value
    """(G H, I)"""
    recurrence: list[Value]
    """(H, gates H) each, transposed: of the gates that need the state at the same time."""
    bias: Value | None
    """(G H), of the inputs, and where that is the same of the state."""
    state_bias: Value | None
    """(H), a GRU's that belongs to its candidate's state with linear_before_reset."""
    peepholes: list[Value]
    """(H) each: input, output, forget."""
    activations: list[Apply]
    units: int

    @property
    def gates(self) -> int:
        return _GATES[self.node.op_type]

    def captured(self) -> list[Value | None]:
        return [*self.recurrence, self.state_bias, *self.peepholes]


@converts("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> list[Value | None]:
    x, batch_first = node.operand(0), bool(node.attr("layout", 0))
    if tensor_of(x).rank != 3:
        raise node.malformed(f"X must have 3 dimensions, got {tensor_of(x)}")
    if batch_first:
        x = node.build(nn.Transpose(x, perm=[1, 0, 2]), "by_time")
    steps = tensor_of(x).shape[0]
    if steps == DYNAMIC:
        raise node.unsupported(f"needs a known number of time steps, got {node.type()}")
    batch = node.sizes(x)[1]
    directions = _directions(node)
    units = directions[0].units
    mask = _mask(node, steps, batch)
    states = 2 if node.op_type == "LSTM" else 1
    found: list[tuple[Value, list[Value]]] = []
    for d, direction in enumerate(directions):
        start = [_initial(node, 5 + s, d, (batch, units), x, batch_first) for s in range(states)]
        reverse = node.attr("direction", "forward") == "reverse" or d == 1
        found.append(_run(direction, x, start, mask, reverse, f"_{d}" if len(directions) > 1 else ""))
    y_order, state_order = ([2, 1, 0, 3], [1, 0, 2]) if batch_first else ([1, 0, 2, 3], [0, 1, 2])
    stacks = [([y for y, _ in found], y_order)]  # from (D, T, B, H)
    stacks += [([last[s] for _, last in found], state_order) for s in range(states)]
    return [
        _joined(node, parts, order) if node.wanted(i) else None for i, (parts, order) in enumerate(stacks)
    ]


def _joined(node: Node, parts: list[Value], order: Sequence[int]) -> Value:
    """One value a direction, stacked and put into the output's order."""
    rows = [node.reshape(p, (1, *tensor_of(p).shape), f"row{i}") for i, p in enumerate(parts)]
    stacked = rows[0] if len(rows) == 1 else node.build(nn.Concat(*rows, axis=0), "rows")
    if len(parts) == 1:  # a dimension of 1 moves without a copy if the others keep their order
        rest = [d for d in order if d]
        if rest == sorted(rest):
            return node.reshape(stacked, [tensor_of(stacked).shape[d] for d in order])
    return node.build(nn.Transpose(stacked, perm=list(order)))


# Operands -------------------------------------------------------------------------------------------------


def _directions(node: Node) -> list[Direction]:
    weight, recurrence, gates = node.operand(1), node.operand(2), _GATES[node.op_type]
    count, _, units = tensor_of(recurrence).shape
    wanted = 2 if node.attr("direction", "forward") == "bidirectional" else 1
    if tensor_of(weight).rank != 3 or count != wanted or tensor_of(recurrence).shape[1] != gates * units:
        raise node.malformed(
            f"weights {tensor_of(weight)}, {tensor_of(recurrence)} do not fit {wanted} directions"
        )
    if node.attr("hidden_size", units) != units:
        raise node.malformed(
            f"hidden_size = {node.attr('hidden_size')} is not that of {tensor_of(recurrence)}"
        )
    return [_direction(node, d, units) for d in range(count)]


def _direction(node: Node, d: int, units: int) -> Direction:
    weight, recurrence = _picked(node.expr(1), d, "weight"), _picked(node.expr(2), d, "recurrence")
    late = node.op_type != "GRU" or bool(node.attr("linear_before_reset", 0))
    bias, state_bias = _biases(node, d, units) if node.input(3) is not None else (None, None)
    peepholes: list[Value] = []
    if node.op_type == "LSTM" and node.input(7) is not None:
        peepholes = [p.value for p in _rows(_picked(node.expr(7), d, "peepholes"), [units] * 3)]
    # Without linear_before_reset a GRU's candidate sees the state only after its reset.
    parts = [recurrence] if late else _rows(recurrence, [2 * units, units])
    transposed = [p.of(nn.Transpose, perm=[1, 0]).value for p in parts]
    return Direction(
        node, weight.value, transposed, bias, state_bias, peepholes, _activations(node, d), units
    )


def _biases(node: Node, d: int, units: int) -> tuple[Value, Value | None]:
    """Those of all gates, and with linear_before_reset that of the state's share in the candidate."""
    both, size = _picked(node.expr(3), d, "biases"), _GATES[node.op_type] * units
    own, state = _rows(both, [size, size])
    if node.op_type != "GRU" or not node.attr("linear_before_reset", 0):
        return (own + state).value, None
    gates, candidate = _rows(state, [2 * units, units])
    return (own + gates.of(nn.Pad, pads=[0, units])).value, candidate.value


def _picked(x: Expr, d: int, name: str) -> Expr:
    """`x[d]`."""
    part = x if x.shape[0] == 1 else x.slice(0, d, d + 1)
    return part.reshape(x.shape[1:]).named(f"{name}{d}") if part.shape != x.shape[1:] else part


def _rows(x: Expr, counts: Sequence[int]) -> list[Expr]:
    """`x` cut along its first dimension."""
    return [x.slice(0, end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]


def _initial(node: Node, which: int, d: int, shape: tuple[Size, int], x: Value, batch_first: bool) -> Value:
    given = node.input(which)
    name = f"start{which - 5}"
    if given is None:
        return node.broadcast(node.const(0, "zero", x.type), shape, name)
    if batch_first:
        given = node.build(nn.Transpose(given, perm=[1, 0, 2]), f"{name}_by_direction")
    return _picked(node.expr(given), d, name).value


def _mask(node: Node, steps: int, batch: Size) -> Value | None:
    """(T, B, 1): true where a sequence has not ended; None if all are as long as T."""
    lengths = node.input(4)
    known = None if lengths is None else node.constant(lengths)
    if lengths is None or (known is not None and (known >= steps).all()):
        return None
    column = node.expr(lengths).cast(i64).reshape((1, batch, 1))
    return (column.like(along(steps, 0, 3)) < column).value


def _activations(node: Node, d: int) -> list[Apply]:
    """The functions of one direction; alpha and beta are listed for those that have them."""
    defaults = _DEFAULTS[node.op_type]
    count = 2 if node.attr("direction", "forward") == "bidirectional" else 1
    names = node.attr("activations") or defaults * count
    if len(names) != len(defaults) * count:
        raise node.malformed(f"activations must hold {len(defaults) * count} names, got {names}")
    known = {name.lower(): activation for name, activation in ACTIVATIONS.items()}
    given = {name: iter(node.attr(f"activation_{name}", [])) for name in ("alpha", "beta")}
    found: list[Apply] = []
    for name in names:
        activation = known.get(name.lower())
        if activation is None:
            raise node.unsupported(f"activation {name} is unknown")
        parameters = {p: next(given[p], default) for p, default in activation.defaults.items()}
        found.append(_clipped(node, partial(activation.build, **parameters)))
    return found[d * len(defaults) : (d + 1) * len(defaults)]


def _clipped(node: Node, build: Apply) -> Apply:
    """The function with its argument limited as the attribute `clip` says."""
    bound = node.attr("clip")
    if bound is None:
        return build
    return lambda x: build(x.clip(-bound, bound))


# Time -----------------------------------------------------------------------------------------------------


def _run(
    direction: Direction, x: Value, start: list[Value], mask: Value | None, reverse: bool, tag: str
) -> tuple[Value, list[Value]]:
    """The states of all time steps (T, B, H), and the last ones."""
    node = direction.node
    steps, batch, _ = tensor_of(x).shape
    features = tensor_of(direction.weight).shape[1]
    size = direction.gates * direction.units
    rows = node.reshape(x, (product((steps, batch)), features), f"rows{tag}")
    gates = node.build(nn.Linear(rows, direction.weight, direction.bias), f"gates{tag}")
    gates = node.reshape(gates, (steps, batch, size), f"gates_by_time{tag}")

    def step(here: Value, flags: Value | None, states: list[Value]) -> tuple[Value, list[Value]]:
        old = [node.expr(state) for state in states]
        new = _CELLS[node.op_type](direction, node.expr(here), old)
        if flags is None:
            return new[0].value, [n.value for n in new]
        kept = [n.where(node.expr(flags), o).value for n, o in zip(new, old, strict=True)]
        return new[0].where(node.expr(flags), 0).value, kept

    if steps == 1:
        here = node.reshape(gates, (batch, size), f"gates_now{tag}")
        flags = None if mask is None else node.reshape(mask, (batch, 1), f"flags{tag}")
        y, last = step(here, flags, start)
        return node.reshape(y, (1, batch, direction.units), f"states{tag}"), last

    def body(counter: Value, carried: list[Value]) -> list[Value]:
        at = backwards(node, counter, steps) if reverse else counter
        flags = None if mask is None else entry(node, mask, at, f"flags{tag}")
        y, new = step(entry(node, gates, at, f"gates_now{tag}"), flags, carried[1:])
        return [with_entry(node, carried[0], at, y, f"states_so_far{tag}"), *new]

    type = TensorType((steps, batch, direction.units), tensor_of(x).element)
    all_states = uninitialised(node, type, gates, f"states{tag}")
    y, *last = repeat(node, steps, [all_states, *start], [gates, mask, *direction.captured()], body)
    return y, last


def _gate(direction: Direction, gates: Expr, which: int) -> Expr:
    units = direction.units
    return gates if gates.shape[1] == units else gates.slice(1, which * units, (which + 1) * units)


def _rnn(direction: Direction, gates: Expr, states: list[Expr]) -> list[Expr]:
    """Elman, "Finding structure in time" (1990)."""
    return [direction.activations[0](gates + states[0].of(nn.Matmul, direction.recurrence[0]))]


def _gru(direction: Direction, gates: Expr, states: list[Expr]) -> list[Expr]:
    """Gates: update z, reset r, candidate. Cho et al., "Learning phrase representations" (2014)."""
    (state,), (f, g) = states, direction.activations
    recurrent = state.of(nn.Matmul, direction.recurrence[0])
    update, reset = (f(_gate(direction, gates, i) + _gate(direction, recurrent, i)) for i in (0, 1))
    if len(direction.recurrence) == 1:  # linear_before_reset
        inner = _gate(direction, recurrent, 2)
        inner = reset * (inner if direction.state_bias is None else inner + direction.state_bias)
    else:
        inner = (reset * state).of(nn.Matmul, direction.recurrence[1])
    candidate = g(_gate(direction, gates, 2) + inner)
    return [candidate + update * (state - candidate)]  # (1 - z) candidate + z state


def _lstm(direction: Direction, gates: Expr, states: list[Expr]) -> list[Expr]:
    """Gates: input, output, forget, candidate. Hochreiter, Schmidhuber (1997); peepholes: Gers et al. (2002)."""
    (state, cell), (f, g, h) = states, direction.activations
    total = gates + state.of(nn.Matmul, direction.recurrence[0])

    def opened(which: int, seen: Expr) -> Expr:
        own = _gate(direction, total, which)
        return f(own + seen * direction.peepholes[which] if direction.peepholes else own)

    entering = opened(0, cell).named("input")
    forget = 1 - entering if direction.node.attr("input_forget", 0) else opened(2, cell).named("forget")
    cell = (forget * cell + entering * g(_gate(direction, total, 3))).named("cell")
    return [opened(1, cell).named("output_gate") * h(cell), cell]


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
