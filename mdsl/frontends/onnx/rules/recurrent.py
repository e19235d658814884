"""Rules for recurrent networks: one matrix product for the inputs of all time steps, then a loop over time.

Letters in shapes: T time steps, B batch, I inputs, H units, D directions, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import product
from mdsl.frontends.onnx.activations import ACTIVATIONS
from mdsl.frontends.onnx.loops import backwards, entry, repeat, uninitialised, with_entry
from mdsl.frontends.onnx.registry import Node, Size, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, i64

Apply = Callable[[Value, str], Value]
"""`f(x, suffix)` builds the activation of x."""

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
    results: list[Value | None] = [None]
    if node.wanted(0):
        order = [1, 0, 2, 3] if not batch_first else [2, 1, 0, 3]  # from (D, T, B, H)
        results = [_joined(node, [y for y, _ in found], order, 0)]
    for s in range(states):
        order = [0, 1, 2] if not batch_first else [1, 0, 2]
        wanted = node.wanted(1 + s)
        results.append(_joined(node, [last[s] for _, last in found], order, 1 + s) if wanted else None)
    return results


def _joined(node: Node, parts: list[Value], order: Sequence[int], output: int) -> Value:
    """One value a direction, stacked and put into the output's order."""
    rows = [node.reshape(p, (1, *tensor_of(p).shape), f"row{i}_of{output}") for i, p in enumerate(parts)]
    stacked = rows[0] if len(rows) == 1 else node.build(nn.Concat(*rows, axis=0), f"rows_of{output}")
    if len(parts) == 1:  # a dimension of 1 moves without a copy if the others keep their order
        rest = [d for d in order if d]
        if rest == sorted(rest):
            return node.reshape(stacked, [tensor_of(stacked).shape[d] for d in order])
    return node.build(nn.Transpose(stacked, perm=list(order)), output=output)


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
    gates = _GATES[node.op_type]
    weight, recurrence = (
        _picked(node, node.operand(1), d, "weight"),
        _picked(node, node.operand(2), d, "recurrence"),
    )
    bias = state_bias = None
    if node.input(3) is not None:
        both = _picked(node, node.operand(3), d, "biases")
        size = gates * units
        own, state = (_rows(node, both, i * size, size, s) for i, s in ((0, "input_bias"), (1, "state_bias")))
        if node.op_type == "GRU" and node.attr("linear_before_reset", 0):
            state_bias = _rows(node, state, 2 * units, units, "candidate_bias")
            pads = [0, units]
            state = node.build(
                nn.Pad(_rows(node, state, 0, 2 * units, "gate_bias"), pads=pads), "gate_biases"
            )
        bias = node.build(nn.Add(own, state), f"bias{d}")
    peepholes: list[Value] = []
    if node.op_type == "LSTM" and node.input(7) is not None:
        all_of_them = _picked(node, node.operand(7), d, "peepholes")
        peepholes = [_rows(node, all_of_them, i * units, units, f"peephole{i}") for i in range(3)]
    late = node.op_type != "GRU" or bool(node.attr("linear_before_reset", 0))
    parts = [recurrence]
    if not late:  # the candidate sees the state only after its reset
        parts = [
            _rows(node, recurrence, i * units, n * units, f"recurrence{d}_{i}") for i, n in ((0, 2), (2, 1))
        ]
    turned = [
        node.build(nn.Transpose(p, perm=[1, 0]), f"recurrence{d}_{i}_turned") for i, p in enumerate(parts)
    ]
    return Direction(node, weight, turned, bias, state_bias, peepholes, _activations(node, d), units)


def _picked(node: Node, value: Value, d: int, suffix: str) -> Value:
    """`value[d]`."""
    shape = tensor_of(value).shape
    part = (
        value
        if shape[0] == 1
        else node.build(nn.Slice(value, starts=[d], ends=[d + 1], axes=[0]), f"{suffix}_row{d}")
    )
    return node.reshape(part, shape[1:], f"{suffix}{d}")


def _rows(node: Node, vector: Value, start: int, count: int, suffix: str) -> Value:
    return node.build(nn.Slice(vector, starts=[start], ends=[start + count], axes=[0]), suffix)


def _initial(node: Node, which: int, d: int, shape: tuple[Size, int], x: Value, batch_first: bool) -> Value:
    given = node.input(which)
    name = f"start{which - 5}"
    if given is None:
        return node.broadcast(node.const(0, "zero", x.type), shape, name)
    if batch_first:
        given = node.build(nn.Transpose(given, perm=[1, 0, 2]), f"{name}_by_direction")
    return _picked(node, given, d, name)


def _mask(node: Node, steps: int, batch: Size) -> Value | None:
    """(T, B, 1): true where a sequence has not ended; None if all are as long as T."""
    lengths = node.input(4)
    known = None if lengths is None else node.constant(lengths)
    if lengths is None or (known is not None and (known >= steps).all()):
        return None
    column = node.reshape(node.cast(lengths, i64, "wide_lengths"), (1, batch, 1), "lengths")
    counter = node.const(np.arange(steps).reshape(-1, 1, 1), "counter")
    return node.build(nn.Compare(counter, column, kind="lt"), "is_inside")


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
        found.append(_clipped(node, partial(activation.build, node, **parameters)))
    return found[d * len(defaults) : (d + 1) * len(defaults)]


def _clipped(node: Node, build: Apply) -> Apply:
    """The function with its argument limited as the attribute `clip` says."""
    bound = node.attr("clip")
    if bound is None:
        return build
    return lambda x, suffix: build(node.build(nn.Clip(x, min=-bound, max=bound), f"{suffix}_clipped"), suffix)


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
        new = _CELLS[node.op_type](direction, here, states)
        if flags is None:
            return new[0], new
        zero = node.const(0, "ended", new[0].type)
        kept = [
            node.build(nn.Select(flags, n, o), f"kept{i}{tag}")
            for i, (n, o) in enumerate(zip(new, states, strict=True))
        ]
        return node.build(nn.Select(flags, new[0], zero), f"output{tag}"), kept

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


def _matmul(direction: Direction, state: Value, which: int, suffix: str) -> Value:
    """The state's share of some gates, (B, gates H)."""
    return direction.node.build(nn.Matmul(state, direction.recurrence[which]), suffix)


def _gate(direction: Direction, gates: Value, which: int, suffix: str) -> Value:
    units = direction.units
    if tensor_of(gates).shape[1] == units:
        return gates
    part = nn.Slice(gates, starts=[which * units], ends=[(which + 1) * units], axes=[1])
    return direction.node.build(part, suffix)


def _add(node: Node, a: Value, b: Value, suffix: str) -> Value:
    return node.build(nn.Add(a, b), suffix)


def _mul(node: Node, a: Value, b: Value, suffix: str) -> Value:
    return node.build(nn.Mul(a, b), suffix)


def _rnn(direction: Direction, gates: Value, states: list[Value]) -> list[Value]:
    """Elman, "Finding structure in time" (1990)."""
    total = _add(direction.node, gates, _matmul(direction, states[0], 0, "from_state"), "total")
    return [direction.activations[0](total, "state")]


def _gru(direction: Direction, gates: Value, states: list[Value]) -> list[Value]:
    """Gates: update z, reset r, candidate. Cho et al., "Learning phrase representations" (2014)."""
    node, (state,), (f, g) = direction.node, states, direction.activations
    late = bool(node.attr("linear_before_reset", 0))
    recurrent = _matmul(direction, state, 0, "from_state")

    def opened(which: int, name: str) -> Value:
        own, other = (
            _gate(direction, gates, which, f"{name}_in"),
            _gate(direction, recurrent, which, f"{name}_state"),
        )
        return f(_add(node, own, other, f"{name}_total"), name)

    update, reset = opened(0, "update"), opened(1, "reset")
    if late:
        inner = _gate(direction, recurrent, 2, "candidate_state")
        if direction.state_bias is not None:
            inner = _add(node, inner, direction.state_bias, "candidate_biased")
        inner = _mul(node, reset, inner, "candidate_reset")
    else:
        inner = _matmul(direction, _mul(node, reset, state, "reset_state"), 1, "candidate_state")
    candidate = g(
        _add(node, _gate(direction, gates, 2, "candidate_in"), inner, "candidate_total"), "candidate"
    )
    # (1 - z) candidate + z state
    change = _mul(node, update, node.build(nn.Sub(state, candidate), "gap"), "change")
    return [_add(node, candidate, change, "state")]


def _lstm(direction: Direction, gates: Value, states: list[Value]) -> list[Value]:
    """Gates: input, output, forget, candidate. Hochreiter, Schmidhuber (1997); peepholes: Gers et al. (2002)."""
    node, (state, cell), (f, g, h) = direction.node, states, direction.activations
    total = _add(node, gates, _matmul(direction, state, 0, "from_state"), "total")

    def opened(which: int, name: str, seen: Value) -> Value:
        own = _gate(direction, total, which, f"{name}_in")
        if direction.peepholes:
            own = _add(
                node, own, _mul(node, direction.peepholes[which], seen, f"{name}_peephole"), f"{name}_total"
            )
        return f(own, name)

    entering = opened(0, "input", cell)
    if node.attr("input_forget", 0):
        kept = node.build(nn.Sub(node.const(1, "one", cell.type), entering), "forget")
    else:
        kept = opened(2, "forget", cell)
    candidate = g(_gate(direction, total, 3, "candidate_in"), "candidate")
    cell = _add(node, _mul(node, kept, cell, "kept"), _mul(node, entering, candidate, "entering"), "cell")
    return [_mul(node, opened(1, "output_gate", cell), h(cell, "cell_output"), "state"), cell]


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
