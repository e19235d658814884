"""From matched ops to rewrites: what belongs together, by provenance."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise

from mdsl.ir.core import Block, Op, OpResult, Value
from mdsl.report.diff.matching import gaps, rising
from mdsl.report.diff.model import Matching, Rewrite, Snapshot, symbol
from mdsl.report.diff.weights import same_weights


def rewrites(before: Snapshot, after: Snapshot, matching: Matching, by_place: bool) -> tuple[Rewrite, ...]:
    """All that differs, in the order of the program.

    Ops that are gone and ops that are new belong to one rewrite if they are of one place in the source (without
    `by_place`: if they lie between the same neighbours), if one is read where the other was, or if they serve nothing else.
    """
    changes = _Changes(before, after, matching)
    if by_place:
        _join_places(changes)
    else:
        _join_neighbours(changes)
    _join_successors(changes)
    _join_inner(changes)
    _join_lonely(changes)
    return tuple(sorted(_rewrites(changes), key=lambda r: r.at))


class _Changes:
    """What is gone, new, altered and moved. `rewrite` sorts it into disjoint sets (union-find), which begin as one a change."""

    def __init__(self, before: Snapshot, after: Snapshot, matching: Matching) -> None:
        self.before, self.after, self.matching = before, after, matching
        self.parent: dict[Op, Op] = {}
        self.gone = self._outermost(before.ops, matching.forward)
        self.new = self._outermost(after.ops, matching.backward)
        self.altered: dict[Op, Op] = {}
        """An op of the program after, to what it was before."""
        self.moved: dict[Op, Op] = {}
        self.read: list[tuple[Value, Value, Op]] = []
        """A value before that an op read, the value that it reads now, and the op."""
        for old, new in matching.forward.items():
            self._compare(old, new)
            for k in range(min(len(old.regions), len(new.regions))):
                self._compare_order(old.regions[k].block, new.regions[k].block)
        self._enclose_moved()

    def rewrite(self, op: Op) -> Op:
        """The op that stands for all of its rewrite."""
        while self.parent[op] is not op:
            self.parent[op] = self.parent[self.parent[op]]
            op = self.parent[op]
        return op

    def join(self, a: Op, b: Op) -> None:
        self.parent[self.rewrite(b)] = self.rewrite(a)

    def change(self, op: Op) -> Op | None:
        """The change that an op of either program is part of."""
        found = self.gone.get(op) or self.new.get(op)
        return found or (op if op in self.altered else None)

    def _outermost(self, ops: Iterable[Op], known: dict[Op, Op]) -> dict[Op, Op]:
        """Each op that has no counterpart, to the outermost such op around it, or itself."""
        found: dict[Op, Op] = {}
        for op in ops:
            if op not in known:
                found[op] = found.get(op.parent, op) if op.parent else op
                self.parent[found[op]] = found[op]
        return found

    def _compare(self, old: Op, new: Op) -> None:
        if not _says_the_same(old, new) or self._reads_other(old, new):
            self.altered[new] = old
            self.parent[new] = new

    def _reads_other(self, old: Op, new: Op) -> bool:
        """True if `new` reads what is no successor of what `old` read: that is there still."""
        other = len(old.operands) != len(new.operands)
        for was, now in zip(old.operands, new.operands, strict=False):
            image = self.matching.image(was)
            if image is not now:
                self.read.append((was, now, new))
                other = other or image is not None
        return other

    def _compare_order(self, old: Block, new: Block) -> None:
        """Of the ops that are in both blocks, as many as can be have stayed where they were."""
        places = {op: i for i, op in enumerate(old.ops)}
        came = [(op, self.matching.backward[op]) for op in new.ops if op in self.matching.backward]
        if all(a < b for a, b in pairwise([-1, *(places.get(source, -1) for _, source in came)])):
            return
        here = [(op, source) for op, source in came if source in places]
        stayed = {here[i][0] for i in rising([places[source] for _, source in here])}
        for op, source in came:
            if op not in stayed:
                self.moved[op] = source
                self.parent.setdefault(op, op)

    def _enclose_moved(self) -> None:
        """What went into something new, or out of what is gone, belongs to that rewrite."""
        sides = (self.new, self.matching.backward), (self.gone, self.matching.forward)
        for around, known in sides:
            for holder, rewrite in around.items():
                for op in (op for region in holder.regions for op in region.block.ops if op in known):
                    new = op if around is self.new else known[op]
                    self.moved[new] = self.matching.backward[new]
                    self.parent.setdefault(new, new)
                    self.join(rewrite, new)


def _says_the_same(old: Op, new: Op) -> bool:
    """True if the ops are alike, operands and what they hold left aside."""
    return (
        old.name == new.name
        and old.attributes == new.attributes
        and same_weights(old, new)
        and _types(old.results) == _types(new.results)
        and len(old.regions) == len(new.regions)
        and all(
            _types(a.block.args) == _types(b.block.args)
            for a, b in zip(old.regions, new.regions, strict=True)
        )
    )


def _types(values: Iterable[Value]) -> list[object]:
    return [v.type for v in values]


# Joining ----------------------------------------------------------------------------------------------------


def _join_places(changes: _Changes) -> None:
    """Joins what is of one place in the source: ops that make a value of one name, then those of one kind in their order,
    and what is left with what is left."""
    gone, new = _by_location(changes.gone), _by_location(changes.new)
    for place in gone.keys() & new.keys():
        left, right = gone[place], new[place]
        for key in (_names, _name_of_kind):
            left, right = _join_alike(changes, left, right, key)
        left, right = ([op for op in side if not _serves(changes, op)] for side in (left, right))
        if left and right:
            for op in (*left, *right):
                changes.join(left[0], op)


def _by_location(found: dict[Op, Op]) -> dict[str, list[Op]]:
    places: dict[str, list[Op]] = defaultdict(list)
    for op, root in found.items():
        if op is root and op.location is not None:
            places[op.location.place].append(op)
    return places


def _names(op: Op) -> Hashable:
    names = tuple(r.name for r in op.results if r.name)
    return names or None


def _name_of_kind(op: Op) -> Hashable:
    return op.name


def _join_alike(
    changes: _Changes, gone: list[Op], new: list[Op], key: Callable[[Op], Hashable]
) -> tuple[list[Op], list[Op]]:
    """Joins one op that is gone with one that is new; returns what is left of both."""
    there: dict[Hashable, list[Op]] = defaultdict(list)
    for op in reversed(new):
        there[key(op)].append(op)
    left: list[Op] = []
    joined: set[Op] = set()
    for op in gone:
        wanted = key(op)
        if wanted is None or not there[wanted]:
            left.append(op)
            continue
        partner = there[wanted].pop()
        joined.add(partner)
        changes.join(op, partner)
    return left, [op for op in new if op not in joined]


def _serves(changes: _Changes, op: Op) -> bool:
    """True if all that reads the op is part of one rewrite, which it will be joined with."""
    served = _served(changes, op) if op.results else set[Op | None]()
    return len(served) == 1 and None not in served


def _join_neighbours(changes: _Changes) -> None:
    """Joins what lies between the same ops."""
    for old, new in list(changes.matching.forward.items()):
        for left, right in zip(old.regions, new.regions, strict=False):
            for run in gaps(left.block, right.block, changes.matching):
                ops = [*run[0], *run[1]]
                for op in ops[1:]:
                    changes.join(ops[0], op)


def _join_successors(changes: _Changes) -> None:
    """Joins a value that is gone with what is read in its stead, where one of both would be left alone, and an op that
    reads something new with that."""
    sides = _sides(changes)
    for was, now, user in changes.read:
        new = changes.new.get(now.op) if isinstance(now, OpResult) else None
        gone = changes.gone.get(was.op) if isinstance(was, OpResult) else None
        if new is not None and gone is None and user in changes.altered:
            changes.join(new, user)
        elif gone is not None and isinstance(now, OpResult) and now.op in changes.altered:
            changes.join(now.op, gone)
            sides[changes.rewrite(gone)] = {"gone", "new"}
        elif new is not None and gone is not None:
            a, b = changes.rewrite(gone), changes.rewrite(new)
            if a is not b and (len(sides[a]) < 2 or len(sides[b]) < 2):
                merged = sides[a] | sides[b]
                changes.join(a, b)
                sides[changes.rewrite(a)] = merged


def _join_inner(changes: _Changes) -> None:
    """Joins an op that is gone without a successor with what holds something new of its place: it went in there."""
    sides = _sides(changes)
    inner = {op.location.place: root for op, root in changes.new.items() if op.location and op is not root}
    for op, root in changes.gone.items():
        if op is root and op.location is not None and len(sides[changes.rewrite(op)]) < 2:
            around = inner.get(op.location.place)
            if around is not None:
                changes.join(around, op)


def _sides(changes: _Changes) -> dict[Op, set[str]]:
    """What each rewrite has so far."""
    found: dict[Op, set[str]] = defaultdict(set)
    for side, roots in (("gone", changes.gone.values()), ("new", changes.new.values())):
        for op in roots:
            found[changes.rewrite(op)].add(side)
    for op in changes.altered:
        found[changes.rewrite(op)] |= {"gone", "new"}
    return found


def _join_lonely(changes: _Changes) -> None:
    """Joins ops that only vanished or only came with the one rewrite that they serve."""
    sides = _sides(changes)
    for roots in (changes.gone, changes.new):
        for root in reversed(list(dict.fromkeys(roots.values()))):
            if len(sides[changes.rewrite(root)]) > 1:
                continue
            served = _served(changes, root)
            if len(served) == 1 and None not in served:
                target = served.pop()
                assert target is not None
                both = sides[target] | sides[changes.rewrite(root)]
                changes.join(target, root)
                sides[changes.rewrite(root)] = both


def _served(changes: _Changes, op: Op) -> set[Op | None]:
    """The rewrites of what reads the op's results, None among them for what stays. An op without results writes memory:
    it serves the next op that uses that."""
    users = [user for result in op.results for user in result.users]
    if not op.results:
        later = (_next_user(op, value) for value in op.operands)
        users = [user for user in later if user is not None][-1:]
    return {changes.rewrite(change) if (change := changes.change(user)) else None for user in users}


def _next_user(op: Op, value: Value) -> Op | None:
    """The op that uses `value` next in the block of `op`."""
    after = op.next
    while after is not None and after not in value.users:
        after = after.next
    return after


# Rewrites ---------------------------------------------------------------------------------------------------


def _rewrites(changes: _Changes) -> Iterable[Rewrite]:
    order, places = changes.after.order, changes.before.order
    stayed = [i for i, op in enumerate(changes.before.ops) if op in changes.matching.forward]

    def anchor(op: Op) -> int:
        """Where that is now which came last before `op`, or is `op`."""
        last = bisect_right(stayed, places[op]) - 1
        return order[changes.matching.forward[changes.before.ops[stayed[last]]]] if last >= 0 else 0

    members: dict[Op, tuple[set[Op], set[Op]]] = defaultdict(lambda: (set(), set()))
    for root in changes.gone.values():
        members[changes.rewrite(root)][0].add(root)
    for root in changes.new.values():
        members[changes.rewrite(root)][1].add(root)
    for op, old in (*changes.altered.items(), *changes.moved.items()):
        sides = members[changes.rewrite(op)]
        if op in changes.altered and old.parent not in changes.gone:
            sides[0].add(old)
        if not (op.parent and op.parent in changes.new):
            sides[1].add(op)
    reads: dict[Op, dict[Value, Value]] = defaultdict(dict)
    for was, now, _ in changes.read:
        gone = changes.gone.get(was.op) if isinstance(was, OpResult) else None
        if gone is not None and not (isinstance(now, OpResult) and now.op in changes.new):
            reads[changes.rewrite(gone)][was] = now
    for key, (gone, new) in members.items():
        before = tuple(sorted(gone, key=places.__getitem__))
        after = tuple(sorted(new, key=order.__getitem__))
        at = min([anchor(op) for op in before] or [order[op] for op in after])
        kind = _kind(changes, before, after)
        if kind == "move":
            before = tuple(changes.moved[op] for op in after)
        yield Rewrite(kind, before, after, _scope((before or after)[0]), at, tuple(reads[key].items()))


def _kind(changes: _Changes, before: tuple[Op, ...], after: tuple[Op, ...]) -> str:
    gone = any(op in changes.gone for op in before)
    new = any(op in changes.new for op in after)
    if gone or new:
        return "rewrite" if gone and new else "rewrite" if before and after else "remove" if gone else "add"
    return "update" if any(op in changes.altered for op in after) else "move"


def _scope(op: Op) -> str:
    """The function or kernel that an op lies in, or is."""
    return next((name for around in (op, *op.ancestors()) if (name := symbol(around))), "")
