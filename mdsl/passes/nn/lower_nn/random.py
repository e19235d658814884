"""lower-nn: random numbers, a loop nest that computes each from its place."""

from __future__ import annotations

from mdsl.dialects import arith, linalg, nn, tensor
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import f32, i32, index
from mdsl.passes.nn.lower_nn.build import Emitter, Read, Scalars, lowers, squeezed
from mdsl.reference.nn.training import PARITY, ROTATIONS


@lowers("nn.random_uniform")
def random_uniform(e: Emitter, op: nn.RandomUniform) -> Value:
    result = tensor_of(op.result)
    names = ("seed", "step", "part")[: tensor_of(op.key).size]
    reads: list[Read] = [(_word(e, op.key, number, name), ()) for number, name in enumerate(names)]

    def body(s: Scalars, seed: Value, step: Value, *part: Value) -> Value:
        place = s.constant(0, index, "zero")
        for dim, size in enumerate(result.shape):
            row = s.multiply(place, s.constant(size, index, "size"), "row") if dim else place
            place = s.add(row, s(linalg.IndexOp(dim=dim), f"i{dim}"), "place")
        counter = s(arith.IndexCast(place, results=[i32]), "counter")
        for number in part:
            counter = s.add(
                counter, s.multiply(number, s.constant(_signed(result.size), i32, "all"), "first"), "counter"
            )
        stream = s.constant(_signed(op.attr("stream")), i32, "stream")
        word = _threefry(s, (seed, step), stream, counter)
        high = s(arith.ShRUI(word, s.constant(8, i32, "eight")), "high")
        return s.multiply(s(arith.SIToFP(high, results=[f32]), "whole"), s.constant(2**-24, f32, "unit"))

    return e.map(reads, result.shape, f32, body)


def _word(e: Emitter, key: Value, number: int, name: str) -> Value:
    """One number of the key, as a tensor without dimensions."""
    cut = e.value(tensor.ExtractSlice.of(key, [number], [1], [1]), f"{name}_part")
    return e.value(squeezed(cut, []), name)


def _threefry(s: Scalars, key: tuple[Value, Value], a: Value, b: Value) -> Value:
    """The first word of the generator (`reference/nn/training.py`) for the counter (a, b)."""
    mixed = s(arith.XOrI(*key), "mixed")
    keys = [*key, s(arith.XOrI(mixed, s.constant(PARITY, i32, "parity")), "third")]
    a, b = s.add(a, keys[0], "a"), s.add(b, keys[1], "b")
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            a = s.add(a, b, "a")
            up = s(arith.ShLI(b, s.constant(turn, i32, f"c{turn}")), "up")
            down = s(arith.ShRUI(b, s.constant(32 - turn, i32, f"c{32 - turn}")), "down")
            b = s(arith.XOrI(s(arith.OrI(up, down), "rotated"), a), "b")
        a = s.add(a, keys[(group + 1) % 3], "a")
        number = s.constant(group + 1, i32, f"c{group + 1}")
        b = s.add(s.add(b, keys[(group + 2) % 3], "b"), number, "b")
    return a


def _signed(word: int) -> int:
    """32 bits as a signed number."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)
