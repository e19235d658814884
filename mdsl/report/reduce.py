"""`mdsl reduce`: the smallest part of a program that a test still finds interesting, by delta debugging.

Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing Input (2002). Large parts are left out first, then
smaller ones, down to single ones, again and again until nothing more can go. `reduce_program` reduces a module, which is
always valid, `report/reduce_onnx.py` a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Generic, TypeVar

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp, FunctionLike
from mdsl.errors import MdslError
from mdsl.ir.attributes import SymbolRefAttr
from mdsl.ir.core import Builder, Op, Value, VerifyError
from mdsl.ir.types import SCALARS, ShapedType, TensorType, Type
from mdsl.ir.verifier import verify
from mdsl.passes.base import functions
from mdsl.syntax.printer import print_module

T = TypeVar("T")

_LATER = 4
"""Parts that are left out at a time, at most, once all have been tried in halves, quarters and so on."""

Count = Callable[[T], int]
"""How many parts of a kind there are."""
Way = Callable[[T, range], T | None]
"""What is left without some parts of a kind; None if they must stay."""


class Reducer(Generic[T]):
    """The smallest `best` so far.

    `is_interesting` is the test, which is not asked twice about what is the same when `written`; `accepted` is called with
    every smaller thing that passes it.
    """

    def __init__(
        self,
        start: T,
        is_interesting: Callable[[T], bool],
        accepted: Callable[[T], None],
        written: Callable[[T], bytes],
    ) -> None:
        self.best = start
        self.is_interesting, self.accepted, self.written = is_interesting, accepted, written
        self.tried: set[bytes] = set()
        self._is_new(start)

    def attempt(self, candidate: T | None) -> bool:
        """Takes the candidate if there is one, it is new and interesting."""
        if candidate is None or not self._is_new(candidate) or not self.is_interesting(candidate):
            return False
        self.best = candidate
        self.accepted(candidate)
        return True

    def _is_new(self, candidate: T) -> bool:
        """Notes a digest of it, for thousands may be tried."""
        digest = sha256(self.written(candidate)).digest()
        is_new = digest not in self.tried
        self.tried.add(digest)
        return is_new

    def reduce(self, sweeps: Sequence[tuple[Count[T], Sequence[Way[T]]]]) -> T:
        """Sweeps again and again, until nothing can go. Large parts are tried the first time: later few of them could go."""
        before, most = None, sys.maxsize
        while before is not self.best:
            before = self.best
            for count, ways in sweeps:
                self.sweep(count, ways, most)
            most = _LATER
        return self.best

    def sweep(self, count: Count[T], ways: Sequence[Way[T]], most: int) -> None:
        """Leaves out as many of the `count` parts as it can, from the end, `most` at a time: `ways` leave out those of a range,
        and are tried in order."""
        size = max(1, min(most, count(self.best) // 2))
        while size:
            end = count(self.best)
            while end > 0:
                part = range(max(0, end - size), end)
                if any(self.attempt(way(self.best, part)) for way in ways):
                    end = min(part.start, count(self.best))
                else:
                    end = part.start
            size //= 2


def reduce_program(
    module: ModuleOp, is_interesting: Callable[[ModuleOp], bool], accepted: Callable[[ModuleOp], None]
) -> ModuleOp:
    """The smallest valid program that is interesting. Raises MdslError if `module` is not."""
    if not is_interesting(module):
        raise MdslError(
            "error: the test does not find the program interesting as it is (its exit code must be 0)"
        )
    reducer = Reducer(module.clone(), is_interesting, accepted, lambda m: print_module(m).encode())
    return reducer.reduce([(count, [_edited(edit) for edit in edits]) for count, edits in SWEEPS])


Edit = Callable[[ModuleOp, range], bool]
"""Leaves parts of a module out, in place; False if they must stay."""


def _edited(edit: Edit) -> Callable[[ModuleOp, range], ModuleOp | None]:
    """The edit on a copy, which is None if it must not be, or is not valid."""

    def way(module: ModuleOp, part: range) -> ModuleOp | None:
        copy = module.clone()
        try:
            if not edit(copy, part):
                return None
            verify(copy)
        except (VerifyError, AssertionError):
            return None
        return copy

    return way


# Symbols ------------------------------------------------------------------------------------------------------


def _symbols(module: ModuleOp) -> list[Op]:
    return [op for op in module.body.ops if op.has("symbol")]


def _drop_symbols(module: ModuleOp, part: range) -> bool:
    for op in _symbols(module)[part.start : part.stop]:
        op.erase()
    return bool(functions(module))


# Ops ----------------------------------------------------------------------------------------------------------


def _ops(module: ModuleOp) -> list[Op]:
    """The ops that can go. A constant that nothing but a number stands in for is no op to drop."""
    return [
        op
        for op in module.walk()
        if op is not module and not op.has("terminator") and not op.has("symbol") and not _is_zero(op)
    ]


def _is_zero(op: Op) -> bool:
    return (
        isinstance(op, Constant)
        and op.attributes["value"] == Constant.of(0, op.result.type).attributes["value"]
    )


def _by_operands(module: ModuleOp, part: range) -> bool:
    """An operand of the same type takes the place of what an op made, where there is one."""
    return _drop_ops(module, part, lambda op, type: next((v for v in op.operands if v.type == type), None))


def _by_arguments(module: ModuleOp, part: range) -> bool:
    """New arguments of the function take the place of what the ops made."""
    return _drop_ops(module, part, _argument)


def _by_zeros(module: ModuleOp, part: range) -> bool:
    return _drop_ops(module, part, _zero)


def _argument(op: Op, type: Type) -> Value | None:
    function = next(a for a in op.ancestors() if a.has("isolated"))
    if not isinstance(function, FuncOp) or _is_called(function):
        return None
    attributes = function.arg_attributes()
    argument = function.body.add_arg(type)
    function.set_arg_attributes([*attributes, {}])
    return argument


def _zero(op: Op, type: Type) -> Value | None:
    fits = type in SCALARS.values() or (isinstance(type, TensorType) and type.is_static)
    return Builder.before(op).value(Constant.of(0, type)) if fits else None


def _drop_ops(module: ModuleOp, part: range, replacement: Callable[[Op, Type], Value | None]) -> bool:
    """Erases ops, the last one first; `replacement` gives what takes the place of a result that is used still."""
    for op in reversed(_ops(module)[part.start : part.stop]):
        if op.block is None:
            continue
        for result in op.results:
            new = replacement(op, result.type) if result.users else None
            if new is not None:
                result.replace_by(new)
        if any(result.users for result in op.results):
            return False
        op.erase()
    for function in functions(module):
        function.update_type()
    return True


# Signatures ---------------------------------------------------------------------------------------------------


def _is_called(function: FunctionLike) -> bool:
    module = function.parent
    name = SymbolRefAttr(function.symbol)
    return module is not None and any(name in op.attributes.values() for op in module.walk())


def _signatures(module: ModuleOp) -> list[FuncOp]:
    return [f for f in functions(module) if not _is_called(f)]


def _results(module: ModuleOp) -> list[tuple[FuncOp, int]]:
    return [(f, i) for f in _signatures(module) for i in range(len(f.body.terminator.operands))]


def _drop_results(module: ModuleOp, part: range) -> bool:
    for function, number in reversed(_results(module)[part.start : part.stop]):
        end, attributes = function.body.terminator, function.result_attributes()
        end.operands = [v for i, v in enumerate(end.operands) if i != number]
        function.update_type()
        function.set_result_attributes([a for i, a in enumerate(attributes) if i != number])
    return True


def _arguments(module: ModuleOp) -> list[tuple[FuncOp, int]]:
    return [(f, i) for f in _signatures(module) for i, a in enumerate(f.body.args) if not a.users]


def _drop_arguments(module: ModuleOp, part: range) -> bool:
    for function, number in reversed(_arguments(module)[part.start : part.stop]):
        attributes = function.arg_attributes()
        function.body.erase_arg(number)
        function.update_type()
        function.set_arg_attributes([a for i, a in enumerate(attributes) if i != number])
    return True


# Attributes and shapes ----------------------------------------------------------------------------------------


def _attributes(module: ModuleOp) -> list[tuple[Op, str]]:
    return [(op, name) for op in module.walk() for name in op.attributes]


def _drop_attributes(module: ModuleOp, part: range) -> bool:
    for op, name in _attributes(module)[part.start : part.stop]:
        del op.attributes[name]
    return True


def _sizes(module: ModuleOp) -> list[tuple[Value, int]]:
    """The dimensions of arguments that can be smaller."""
    arguments = [a for f in _signatures(module) for a in f.body.args]
    return [
        (a, d)
        for a in arguments
        if isinstance(a.type, ShapedType)
        for d, size in enumerate(a.type.shape)
        if size > 1
    ]


def _ones(module: ModuleOp, part: range) -> bool:
    return _shrink(module, part, lambda size: 1)


def _halves(module: ModuleOp, part: range) -> bool:
    return _shrink(module, part, lambda size: -(-size // 2))


def _shrink(module: ModuleOp, part: range, smaller: Callable[[int], int]) -> bool:
    """Gives dimensions of arguments another size, and results the types that follow."""
    for value, dimension in _sizes(module)[part.start : part.stop]:
        assert isinstance(value.type, ShapedType)
        shape = [smaller(s) if d == dimension else s for d, s in enumerate(value.type.shape)]
        value.type = value.type.with_shape(tuple(shape))
    for op in module.walk():
        if type(op).infer is not Op.infer or op.has("same-type"):
            for result, found in zip(op.results, op.infer(), strict=True):
                result.type = found
    for function in functions(module):
        function.update_type()
    return True


SWEEPS: Sequence[tuple[Callable[[ModuleOp], int], Sequence[Edit]]] = (
    (lambda module: len(_symbols(module)), (_drop_symbols,)),
    (lambda module: len(_results(module)), (_drop_results,)),
    (lambda module: len(_ops(module)), (_by_operands, _by_arguments, _by_zeros)),
    (lambda module: len(_arguments(module)), (_drop_arguments,)),
    (lambda module: len(_attributes(module)), (_drop_attributes,)),
    (lambda module: len(_sizes(module)), (_ones, _halves)),
)
"""How many parts of a kind there are, and the ways to leave some of them out. The larger kinds come first."""
