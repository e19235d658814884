"""Which op of one program is which of the other: by identity, then by symbols, places in the source, and structure."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.types import Type
from mdsl.report.diff.model import Matching, Snapshot, symbol

Key = Callable[[Op], Hashable]


def match(before: Snapshot, after: Snapshot) -> tuple[Matching, bool]:
    """Matches the ops of two programs, as closely as they tell; True if one was made of the other.

    Ops that a pass left in place are the same objects, or copies of the same. What is left is matched where it can be
    nothing else: a function by its symbol, an op by its place in the source and all that it says by itself. Between
    programs that have no op in common the names of values and the structure decide.
    """
    found = Matching()
    found.pair(before.module, after.module)
    same = _by_identity(before, after, found)
    related = same or _made_of(before.ops, after.ops)
    _by_symbol(before.module, after.module, found)
    if related:
        _by_place(before.ops, after.ops, found)
    if not same:
        _by_structure(before.module, after.module, found)
    _pair_ends(found)
    return found, related


def _made_of(before: Sequence[Op], after: Sequence[Op]) -> bool:
    """True if the history of an op after goes on from that of one before."""
    known = {op.location.place: op.location.passes for op in before if op.location}
    places = (op.location for op in after if op.location and op.location.place in known)
    return any(len(place.passes) > len(known[place.place]) for place in places)


def _by_identity(before: Snapshot, after: Snapshot, found: Matching) -> bool:
    """Pairs the ops that are the same; True if there are any but the module."""
    here = {after.origin.get(op, op): op for op in after.ops}
    for op in before.ops:
        same = here.get(before.origin.get(op, op))
        if isinstance(same, Op) and same.name == op.name:
            found.pair(op, same)
    values: dict[Value | Op, Value] = {}
    for op in here.values():
        assert isinstance(op, Op)
        for value in _values(op):
            values[after.origin.get(value, value)] = value
    for op in found.forward:
        for value in _values(op):
            same_value = values.get(before.origin.get(value, value))
            if same_value is not None:
                found.values[value] = same_value
    return len(found.forward) > 1


def _values(op: Op) -> Iterable[Value]:
    """The values that the op defines, arguments of its blocks among them."""
    yield from op.results
    for region in op.regions:
        yield from region.block.args


def _by_symbol(before: Op, after: Op, found: Matching) -> None:
    """Functions, kernels and globals of one name, and those of one module within one."""
    there = {symbol(op): op for op in after.body.ops if op not in found.backward and symbol(op)}
    for op in before.body.ops:
        other = None if op in found.forward else there.get(symbol(op))
        if other is not None:
            found.pair(op, other)


def _pair_ends(found: Matching) -> None:
    """The end of a block is the end of what the block became."""
    for old, new in list(found.forward.items()):
        for left, right in zip(old.regions, new.regions, strict=False):
            a, b = left.block.last, right.block.last
            if a is None or b is None or a in found.forward or b in found.backward:
                continue
            if a.has("terminator") and b.has("terminator"):
                found.pair(a, b)


def _by_place(before: Sequence[Op], after: Sequence[Op], found: Matching) -> None:
    """Ops that were remade: of one place in the source and alike in all but operands."""
    there: dict[Hashable, deque[Op]] = defaultdict(deque)
    gone = [op for op in before if op.location is not None and op not in found.forward]
    known = {_kind_at(op) for op in gone}
    for op in after:
        if op not in found.backward and _kind_at(op) in known:
            there[_placed(op)].append(op)
    for op in gone:
        same = there.get(_placed(op)) if there else None
        if same and op not in found.forward:
            _pair_whole(op, same.popleft(), found)


def _pair_whole(before: Op, after: Op, found: Matching) -> None:
    """Pairs two ops, and what they hold as far as that is alike: it may have no place of its own."""
    if before in found.forward or after in found.backward:
        return
    found.pair(before, after)
    for left, right in zip(before.regions, after.regions, strict=True):
        for old, new in zip(left.block.ops, right.block.ops, strict=True):
            if _said(old) == _said(new) and _inside(old) == _inside(new):
                _pair_whole(old, new, found)


def _kind_at(op: Op) -> Hashable:
    return (op.name, op.location.place) if op.location else None


def _placed(op: Op) -> Hashable:
    assert op.location is not None
    return op.location.place, _parent_kind(op), op.name, *_said(op), _inside(op)


def _parent_kind(op: Op) -> str:
    """A terminator belongs to its parent: `linalg.yield` of one op is not that of another."""
    return op.parent.name if op.has("terminator") and op.parent else ""


def _said(op: Op) -> tuple[frozenset[tuple[str, Attribute]], tuple[Type, ...]]:
    """What an op says by itself."""
    return frozenset(op.attributes.items()), tuple(r.type for r in op.results)


def _inside(op: Op) -> Hashable:
    """What the op holds, roughly: an op with another body is another op."""
    return tuple(inner.name for region in op.regions for inner in region.block.ops)


# Programs with nothing in common ----------------------------------------------------------------------------


def _by_structure(before: Op, after: Op, found: Matching) -> None:
    """Matches block by block, from outside in."""
    digests: dict[Op, int] = {}
    for root in (before, after):
        _digest(root, {}, digests)
    pending = [(b, a) for b, a in found.forward.items()]
    while pending:
        old, new = pending.pop()
        for left, right in zip(old.regions, new.regions, strict=False):
            pairs = _match_blocks(left.block, right.block, digests, found)
            pending += [(b, a) for b, a in pairs if b.regions and a.regions]


def _digest(op: Op, values: dict[Value, int], found: dict[Op, int]) -> int:
    """A hash of what the op computes: of itself, what it holds, and all that it reads, names left aside."""
    for k, region in enumerate(op.regions):
        values.update((arg, hash((k, arg.index, arg.type))) for arg in region.block.args)
    inside = tuple(_digest(inner, values, found) for region in op.regions for inner in region.block.ops)
    read = tuple(values.get(v, 0) for v in op.operands)
    number = hash((op.name, *_said(op), read, inside))
    values.update((r, hash((number, r.index))) for r in op.results)
    found[op] = number
    return number


def _match_blocks(old: Block, new: Block, digests: dict[Op, int], found: Matching) -> list[tuple[Op, Op]]:
    """Pairs the ops of two blocks: what computes the same, then what is called the same, then what stands in the same order
    between them."""
    pairs = [(b, found.forward[b]) for b in old.ops if b in found.forward]
    for key in (lambda op: digests[op], _named):
        pairs += _unique(_free(old, found.forward), _free(new, found.backward), key, found)
    for left, right in gaps(old, new, found):
        pairs += _in_order(left, right, found)
    return pairs


def gaps(old: Block, new: Block, found: Matching) -> Iterator[tuple[list[Op], list[Op]]]:
    """The unmatched ops between neighbours that are matched and in order on both sides."""
    left, right = old.ops, new.ops
    places = {op: i for i, op in enumerate(right)}
    anchors = [(i, places[a]) for i, b in enumerate(left) if (a := found.forward.get(b)) in places]
    kept = rising([at for _, at in anchors])
    i = j = 0
    for stop, until in (*(anchors[k] for k in kept), (len(left), len(right))):
        yield (
            [op for op in left[i:stop] if op not in found.forward],
            [op for op in right[j:until] if op not in found.backward],
        )
        i, j = stop + 1, until + 1


def rising(numbers: Sequence[int]) -> list[int]:
    """The indices of a longest rising run of different numbers, gaps allowed."""
    ends: list[int] = []  # ends[n]: the index of the least number that ends a run of n + 1
    least: list[int] = []
    before: list[int] = []
    for i, number in enumerate(numbers):
        n = bisect_left(least, number)
        before.append(ends[n - 1] if n else -1)
        ends[n : n + 1] = [i]
        least[n : n + 1] = [number]
    found: list[int] = []
    at = ends[-1] if ends else -1
    while at >= 0:
        found.append(at)
        at = before[at]
    return found[::-1]


def _free(block: Block, known: dict[Op, Op]) -> list[Op]:
    return [op for op in block.ops if op not in known]


def _named(op: Op) -> Hashable:
    """The names of what the op makes; None if it has none."""
    names = tuple(r.name for r in op.results)
    return (op.name, names) if any(names) else None


def _unique(left: list[Op], right: list[Op], key: Key, found: Matching) -> list[tuple[Op, Op]]:
    """Pairs ops of equal keys, in order."""
    there: dict[Hashable, deque[Op]] = defaultdict(deque)
    for op in right:
        there[key(op)].append(op)
    pairs: list[tuple[Op, Op]] = []
    for op in left:
        wanted = key(op)
        if wanted is not None and there[wanted]:
            pairs.append((op, there[wanted].popleft()))
            found.pair(*pairs[-1])
    return pairs


def _in_order(left: list[Op], right: list[Op], found: Matching) -> list[tuple[Op, Op]]:
    """Pairs ops of one kind in the longest common sequence."""
    keys = [[(op.name, tuple(r.type for r in op.results)) for op in side] for side in (left, right)]
    pairs: list[tuple[Op, Op]] = []
    for block in SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            pairs.append((left[block.a + k], right[block.b + k]))
            found.pair(*pairs[-1])
    return pairs
