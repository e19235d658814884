"""lower-vm: addresses as affine forms of index values, and the registers that hold them.

An index value is kept as a sum `constant + factor * leaf + ...`, a leaf being a loop counter or an index
that some op computed. It becomes a chain of `mvm.lea` only where an instruction needs it, each link right
behind the leaf it adds, so that an inner loop finds what does not change in it already computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdsl.dialects import mvm
from mdsl.dialects.arith import Constant
from mdsl.ir.core import Block, BlockArgument, Op, Value
from mdsl.ir.types import index


def low_bits(number: int) -> int:
    """What a register of 64 bits holds of `number`."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


@dataclass(frozen=True)
class Affine:
    """`constant` plus the sum of factor * leaf, computed as registers compute it: modulo 2^64."""

    constant: int = 0
    terms: tuple[tuple[Value, int], ...] = ()

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            other = Affine(other)
        if not other.terms:
            return Affine(low_bits(self.constant + other.constant), self.terms)
        factors: dict[Value, int] = dict(self.terms)
        for leaf, factor in other.terms:
            factors[leaf] = low_bits(factors.get(leaf, 0) + factor)
        return Affine(
            low_bits(self.constant + other.constant), tuple((v, f) for v, f in factors.items() if f)
        )

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        if factor == 1:
            return self
        scaled = [(leaf, low_bits(own * factor)) for leaf, own in self.terms]
        return Affine(low_bits(self.constant * factor), tuple((v, f) for v, f in scaled if f))

    def __sub__(self, other: Affine) -> Affine:
        return self + other * -1

    def exactly_divided(self, divisor: int) -> Affine:
        """All numbers divided by `divisor`, which divides them."""
        assert all(n % divisor == 0 for n in (self.constant, *(f for _, f in self.terms)))
        return Affine(self.constant // divisor, tuple((v, f // divisor) for v, f in self.terms))


def combined(name: str, left: Affine, right: Affine) -> Affine | None:
    """The op of that name on two affine forms; None where the result is none."""
    match name:
        case "arith.addi":
            return left + right
        case "arith.subi":
            return left - right
        case "arith.muli" if not right.terms:
            return left * right.constant
        case "arith.muli" if not left.terms:
            return right * left.constant
    return None


@dataclass(frozen=True)
class Address:
    """A place in a buffer: an offset in elements of the memref it stands for."""

    buffer: Value
    offset: Affine


class Registers:
    """Makes registers for affine forms, each once."""

    def __init__(self, entry: Block) -> None:
        self.entry = entry
        self.last_constant: Op | None = None
        self.known: dict[Affine, Value] = {}
        self.last_hoisted: dict[Value, Op] = {}

    def constant(self, value: int) -> Value:
        """A register that holds `value`, set at the function's entry."""
        form = Affine(value)
        if form not in self.known:
            op = Constant.of(value, index)
            op.result.name = f"c{value}" if value >= 0 else f"cm{-value}"
            before = self.entry.first if self.last_constant is None else self.last_constant.next
            self.entry.insert(op, before)
            self.last_constant = op
            self.known[form] = op.result
        return self.known[form]

    def get(self, form: Affine) -> Value:
        """A register that holds the form's value."""
        if not form.terms:
            return self.constant(form.constant)
        if form.constant == 0 and len(form.terms) == 1 and form.terms[0][1] == 1:
            return form.terms[0][0]
        ordered = Affine(form.constant, self.by_depth(form.terms))
        if ordered not in self.known:
            leaf, factor = ordered.terms[-1]
            rest = Affine(0, ordered.terms[:-1])
            base = self.get(rest) if rest.terms else self.constant(0)
            op = mvm.Lea(base, leaf, stride=factor, offset=form.constant)
            op.result.name = f"{leaf.name}_at"
            self._behind(leaf, base, op)
            self.known[ordered] = op.result
        return self.known[ordered]

    def split(self, form: Affine) -> tuple[Value, Value | None, int]:
        """`(base, index, stride)` for an access; the index is the innermost leaf, so that the base is hoisted."""
        if not form.terms:
            return self.constant(form.constant), None, 1
        terms = self.by_depth(form.terms)
        leaf, factor = terms[-1]
        rest = Affine(form.constant, terms[:-1])
        if rest == Affine() and factor == 1:
            return leaf, None, 1
        return self.get(rest), leaf, factor

    def by_depth(self, terms: tuple[tuple[Value, int], ...]) -> tuple[tuple[Value, int], ...]:
        """Terms with the leaf that changes most often last."""
        return tuple(sorted(terms, key=lambda t: (self._depth(t[0]), t[0].serial)))

    def _depth(self, leaf: Value) -> int:
        block = _block_of(leaf)
        depth = 0
        while block.parent_op is not None and block.parent_op.block is not None:
            block = block.parent_op.block
            depth += 1
        return depth

    def _behind(self, leaf: Value, base: Value, op: Op) -> None:
        """Inserts `op` right behind the definitions of `leaf` and of `base`."""
        block = _block_of(leaf)
        after = self.last_hoisted.get(leaf)
        if after is None and not isinstance(leaf, BlockArgument):
            owner = leaf.owner
            assert isinstance(owner, Op)
            after = owner
        base_owner = base.owner
        if isinstance(base_owner, Op) and base_owner.block is block and _comes_later(base_owner, after):
            after = base_owner
        block.insert(op, block.first if after is None else after.next)
        self.last_hoisted[leaf] = op


def _block_of(value: Value) -> Block:
    if isinstance(value, BlockArgument):
        return value.block
    owner = value.owner
    assert isinstance(owner, Op) and owner.block is not None
    return owner.block


def _comes_later(op: Op, other: Op | None) -> bool:
    """True if `op` stands behind `other` in their block."""
    if other is None:
        return True
    at: Op | None = other
    while at is not None:
        if at is op:
            return at is not other
        at = at.next
    return False
