"""All errors of a text that a parser has refused.

In place of an operation that cannot be built stands an `Unbuilt`, whose results have the types that the text gives them,
so that reading goes on behind it. Nothing is said of an operation that reads one of these: it may be wrong only because
of the first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from lark import Token, Tree

from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import Source, SyntaxError_, TextErrors, nearest
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.findings import Findings
from mdsl.ir.types import FunctionType, Type, none
from mdsl.ir.verifier import symbol_errors
from mdsl.syntax.cursor import TYPE_TOKENS
from mdsl.syntax.grammar import Node, TooDeepError, bare_operation, start_of
from mdsl.syntax.operations import OPS, Parser
from mdsl.syntax.recovery import MOST, Recovered, recovered
from mdsl.syntax.resources import Resources

_REGIONS = ("region", "region_body")


def errors_of(source: Source, resources: Resources) -> SyntaxError_ | None:
    """The errors of a text, sorted by place; None if there are none."""
    tree = recovered(source)
    reader = Diagnosis(source, resources, tree)
    reader.read()
    at_places = {(e.line, e.column): e for e in reversed([*tree.errors, *reader.errors])}
    found = [at_places[place] for place in sorted(at_places)]
    if len(found) < 2:
        return found[0] if found else None
    return TextErrors(found[:MOST], stopped=len(found) >= MOST)


class _Enough(Exception):
    """There are so many errors that more would help nobody."""


class Unbuilt(Op):
    """In place of an op that could not be built: its results and its regions, as far as the text tells them."""

    name = "builtin.unbuilt"


class Diagnosis(Parser):
    """A parser that notes errors and goes on."""

    def __init__(self, source: Source, found: Resources, text: Recovered) -> None:
        super().__init__(source, found)
        self.tree = text.tree
        self.lost = set(text.lost)
        self.errors: list[SyntaxError_] = []
        self.broken = _last_before(text.places, sorted(_starts(text.tree)))
        self.wholly_read = not text.errors
        self.quiet = False
        """True within an op of which nothing is to be said (any more)."""
        self.values: list[Value] = []
        """What the op reads that is being built."""
        self.read_by: dict[SyntaxError_, list[Value]] = {}
        """What was read by an op that could not be built."""
        self.stand_ins: set[Value] = set()
        self.suspect: set[Op] = set()
        self.regions: dict[int, Region] = {}

    def read(self) -> None:
        try:
            module = self.file(self.tree)
            self._verify(module)
        except _Enough:
            pass

    def _note(self, error: SyntaxError_) -> None:
        if len(self.errors) == MOST:
            raise _Enough
        self.errors.append(error)

    # Building ---------------------------------------------------------------------------------------------

    def define_alias(self, tree: Tree[Token]) -> None:
        try:
            super().define_alias(tree)
        except SyntaxError_ as error:
            self._note(error)
            self.lost.add(str(tree.children[0]))

    def append(self, block: Block, tree: Tree[Token]) -> None:
        """Appends the op, or leaves stand-ins for what it defines."""
        outer, depth = (self.quiet, self.values), len(self.scopes)
        tree = self._cut(tree)
        self.values = []
        self.quiet = start_of(tree) in self.broken or self._names_lost(tree)
        try:
            op = self.op(tree)
            block.append(op)
            if self.quiet:
                self.suspect.add(op)
        except TooDeepError:
            raise
        except (SyntaxError_, AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
            if not self.quiet and not isinstance(error, SyntaxError_):
                raise  # what reads a stand-in need not make sense, everything else must
            if not self.quiet and isinstance(error, SyntaxError_):
                self._note(error)
                self.read_by[error] = self.values
            self._unwind(depth)
            self._leave_unbuilt(block, tree)
        self.quiet, self.values = outer

    def _cut(self, tree: Tree[Token]) -> Tree[Token]:
        """The op without the next line, which the grammar took for pieces of it: `%y = relu %x` names no op."""
        for at, (a, b) in enumerate(pairwise(tree.children)):
            if at < 3 or not isinstance(a, Token) or a.type != "VALUE" or str(b) != "=":
                continue
            place = a.start_pos or 0
            if self.source.text[self.source.text.rfind("\n", 0, place) + 1 : place].strip():
                continue
            self._note(bare_operation(self.source, place) or self.error("expected an operation", a))
            self.lost.add(str(a))
            return Tree(tree.data, tree.children[:at])
        return tree

    def _names_lost(self, tree: Tree[Token]) -> bool:
        return bool(self.lost) and any(str(t) in self.lost for t in _own_tokens(tree) if t[:1] in "#!")

    def value(self, token: Token) -> Value:
        """The value; one that is not defined is said to be so at its first use."""
        name = str(token)[1:]
        if name not in self.scopes[-1]:
            if f"%{name.partition('#')[0]}" not in self.lost:
                self._note(self.error(f"{token} is not defined{nearest(name, list(self.scopes[-1]))}", token))
            self._stand_in(name, Block([none]).args[0])
        found = self.scopes[-1][name]
        self.values.append(found)
        self.quiet = self.quiet or found in self.stand_ins
        return found

    def region(self, tree: Node, isolated: bool, args: Sequence[tuple[Token, Type]] = ()) -> Region:
        found = super().region(tree, isolated, args)
        self.regions[id(_body(tree))] = found
        return found

    # What an op that was not built leaves --------------------------------------------------------------------

    def _unwind(self, depth: int) -> None:
        """Leaves the regions that an error interrupted."""
        while len(self.scopes) > depth:
            for name in self.local.pop():
                del self.scopes[-1][name]
            self.scopes.pop()

    def _leave_unbuilt(self, block: Block, tree: Tree[Token]) -> None:
        results = tree.children[0]
        names = _result_names(results) if isinstance(results, Token) else []
        types = self._written_types(tree)
        regions = [self.regions.get(id(r)) or self._read_region(tree, r) for r in _regions_of(tree)]
        for region in regions:
            region.parent = None  # the op was built and then found wrong
        op = Unbuilt.from_parts([], types if len(types) == len(names) else [none] * len(names), {}, regions)
        for name, value in zip(names, op.results, strict=True):
            self._stand_in(name, value)
        self.lost.update(str(t) for t in _own_tokens(tree) if t.type == "SYMBOL")
        self.suspect.add(block.append(op))

    def _stand_in(self, name: str, value: Value) -> None:
        self.stand_ins.add(value)
        if name not in self.scopes[-1]:
            self.define(name, value, Token("VALUE", name))

    def _read_region(self, tree: Tree[Token], region: Tree[Token]) -> Region:
        """Reads the ops of a region whose op was not built; the names that the op or a label gives it are stand-ins."""
        self.scopes.append(self.scopes[-1])
        self.local.append([])
        block = Block()
        for owner in (tree, region):
            tokens = list(_own_tokens(owner))
            for at, token in enumerate(tokens):
                if token.type == "VALUE" and str(token)[1:] not in self.scopes[-1]:
                    self._stand_in(str(token)[1:], block.add_arg(self._type_at(tokens[at + 1 : at + 3])))
        for item in region.children:
            if isinstance(item, Tree) and item.data in OPS:
                self.append(block, item)
        self._unwind(len(self.scopes) - 1)
        return Region(block)

    def _type_at(self, tokens: Sequence[Token]) -> Type:
        """The type of `: type`, or of `type` where the tree has no colons."""
        token = next((t for t in tokens if t.type != "COLON"), None)
        if token is None or token.type not in TYPE_TOKENS:
            return none
        try:
            return self.attributes.type(token)
        except SyntaxError_:
            return none

    def _written_types(self, tree: Tree[Token]) -> list[Type]:
        """The types that stand at the end of an op: those of its results, if it is written as most are."""
        pieces = [c for c in tree.children if c is not None]
        while pieces and isinstance(pieces[-1], Tree) and pieces[-1].data in ("braces", "loc"):
            pieces.pop()
        last = pieces[-1] if pieces else None
        try:
            if isinstance(last, Token) and last.type in TYPE_TOKENS:
                return [self.attributes.type(last)]
            if isinstance(last, Tree) and last.data == "function_type":
                type = self.attributes.type(last)
                return list(type.results) if isinstance(type, FunctionType) else []
            if isinstance(last, Tree) and last.data == "parens":
                return [self.attributes.type(t) for t in last.children if getattr(t, "type", "") != "COMMA"]
        except (SyntaxError_, AssertionError):
            pass
        return []

    # Verifying --------------------------------------------------------------------------------------------

    def _verify(self, module: ModuleOp) -> None:
        findings = Findings(self.suspect)
        findings.op(module)
        follows = {e for e, values in self.read_by.items() if any(v.owner in findings.wrong for v in values)}
        self.errors = [e for e in self.errors if e not in follows]
        symbols = [
            e
            for e in symbol_errors(module, findings.unsound)
            if e.op not in findings.wrong and not any(str(a) in self.lost for a in e.op.attributes.values())
        ]
        for error in (*findings.errors, *symbols):
            # Where text was left out, a region may lack its end.
            if self.wholly_read or not error.op.regions:
                self._note(self.located(error))


def _body(tree: Node) -> Node:
    return tree.children[0] if isinstance(tree, Tree) and tree.data == "braces" else tree


def _result_names(token: Token) -> list[str]:
    found: list[str] = []
    for part in str(token)[:-1].split(","):
        name, _, count = part.strip()[1:].partition(":")
        found += [f"{name}#{i}" for i in range(min(int(count), MOST))] if count else [name]
    return found


def _own_tokens(tree: Tree[Token]) -> Iterator[Token]:
    """The tokens of an op or a region without those of the ops in it."""
    for child in tree.children:
        if isinstance(child, Token):
            yield child
        elif isinstance(child, Tree) and child.data not in (*OPS, *_REGIONS):
            yield from _own_tokens(child)


def _regions_of(tree: Tree[Token]) -> Iterator[Tree[Token]]:
    """The regions of an op, without those of the ops in it."""
    for child in tree.children:
        if isinstance(child, Tree) and child.data in _REGIONS:
            yield child
        elif isinstance(child, Tree) and child.data not in OPS:
            yield from _regions_of(child)


def _starts(tree: Tree[Token]) -> Iterator[int]:
    """Where the ops of a text begin."""
    for op in tree.find_pred(lambda t: t.data in OPS):
        start = start_of(op)
        if start is not None:
            yield start


def _last_before(places: Sequence[int], starts: Sequence[int]) -> set[int]:
    """For each place the greatest of `starts` before it."""
    return {starts[at - 1] for place in places if (at := bisect_left(starts, place))}
