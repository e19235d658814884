"""Values, operations, blocks: what must hold after every change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsl.dialects import arith, memref, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp, Return
from mdsl.ir.core import Block, Builder, Op, Region, Value, VerifyError
from mdsl.ir.location import Location
from mdsl.ir.types import MemRefType, f32, index
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module, print_op

TEXT = """func.func @main(%x: f32, %n: index) -> f32 {
  %a = arith.addf %x, %x : f32
  %b = arith.mulf %a, %x : f32
  %c = scf.for %i = %n to %n step %n iter_args(%s = %b) -> (f32) {
    %d = arith.subf %s, %a : f32
    scf.yield %d : f32
  }
  func.return %c : f32
}
"""


def named(module: ModuleOp, name: str) -> Op:
    """The op whose first result is `%name`."""
    return next(op for op in module.walk() if op.results and op.results[0].name == name)


def check(root: Op) -> None:
    """Links, owners and users agree with each other."""
    uses: dict[Value, set[Op]] = {}
    values: list[Value] = []
    for op in root.walk():
        for value in op.operands:
            uses.setdefault(value, set()).add(op)
        values += op.results
        assert [r.index for r in op.results] == list(range(len(op.results)))
        assert all(r.owner is op for r in op.results)
        for region in op.regions:
            assert region.parent is op and region.block.parent is region
            block = region.block
            values += block.args
            assert [a.index for a in block.args] == list(range(len(block.args)))
            assert all(a.owner is block for a in block.args)
            ops = block.ops
            assert block.first is (ops[0] if ops else None) and block.last is (ops[-1] if ops else None)
            for before, after in zip([None, *ops], [*ops, None], strict=True):
                assert before is None or (before.next is after and before.block is block)
                assert after is None or after.prev is before
    for value in values:
        assert set(value.users) == uses.get(value, set())


def test_users_follow_operands() -> None:
    module = parse(TEXT)
    check(module)
    a, b = named(module, "a"), named(module, "b")
    b.operands = [b.operands[0], a.result]
    assert set(a.result.users) == {b, named(module, "d")}
    check(module)
    b.operands = [b.operands[0].owner.operands[0]] * 2  # type: ignore[union-attr]
    assert b not in a.result.users
    check(module)


def test_replace_by_hands_on_the_name() -> None:
    module = parse(TEXT)
    a = named(module, "a")
    new = Builder.before(a).value(arith.MulF(*a.operands))
    a.replace_by(new)
    assert new.name == "a" and a.block is None
    check(module)
    assert print_module(module) == TEXT.replace("addf", "mulf")


def test_replace_by_keeps_a_name_of_its_own() -> None:
    module = parse(TEXT)
    a, b = named(module, "a"), named(module, "b")
    b.replace_by(a.result)
    assert a.result.name == "a"
    assert "iter_args(%s = %a)" in print_module(module)
    check(module)


def test_replacing_a_value_by_itself_changes_nothing() -> None:
    module = parse(TEXT)
    a = named(module, "a").result
    a.replace_by(a)
    assert print_module(module) == TEXT
    check(module)


def test_erasing_a_used_op_is_a_bug() -> None:
    module = parse(TEXT)
    with pytest.raises(AssertionError, match="%a is in use"):
        named(module, "a").erase()


def test_erasing_drops_what_is_inside() -> None:
    module = parse(TEXT)
    loop, end = named(module, "c"), module.body.ops[0].body.terminator
    end.operands = [named(module, "b").result]
    loop.erase()
    assert list(named(module, "a").result.users) == [named(module, "b")]
    check(module)
    verify(module)


def test_detach_and_insert() -> None:
    module = parse(TEXT)
    a, b = named(module, "a"), named(module, "b")
    block = a.block
    assert block is not None
    block.insert(b.detach(), a)
    check(module)
    assert [op.results[0].name for op in block.ops[:2]] == ["b", "a"]
    with pytest.raises(VerifyError, match="%a does not dominate its use"):
        verify(module)
    with pytest.raises(AssertionError, match="already lies in a block"):
        block.append(a)


def test_clone_maps_inner_values() -> None:
    module = parse(TEXT)
    func = module.body.ops[0]
    mapping: dict[Value, Value] = {}
    copy = func.clone(mapping)
    assert mapping[named(module, "a").result].owner is not named(module, "a")
    module.body.append(copy)
    copy.attributes["sym_name"] = func.attributes["sym_name"].__class__("copy")  # type: ignore[call-arg]
    assert func.attr("sym_name") == "main", "attributes are the copy's own"
    check(module)
    verify(module)
    assert print_op(copy) == print_op(func).replace("@main", "@copy")


def test_clone_with_other_operands() -> None:
    module = parse(TEXT)
    a, b = named(module, "a"), named(module, "b")
    copy = b.clone({a.result: b.operands[1]})
    assert copy.operands == [b.operands[1]] * 2 and copy.block is None
    Builder.after(b).add(copy)
    check(module)


def test_block_arguments() -> None:
    block = Block([f32, index], ["x", "n"])
    block.add_arg(f32, "y")
    block.erase_arg(1)
    assert [(a.name, a.index) for a in block.args] == [("x", 0), ("y", 1)]
    block.append(arith.NegF(block.args[0]))
    with pytest.raises(AssertionError, match="still in use"):
        block.erase_arg(0)


def test_walk_survives_rewriting() -> None:
    module = parse(TEXT)
    for op in module.walk():
        if op.name == "arith.subf":
            new = Builder.before(op).value(arith.AddF(*op.operands))
            op.replace_by(new)
    check(module)
    assert print_module(module) == TEXT.replace("subf", "addf")


def test_ancestors() -> None:
    module = parse(TEXT)
    assert [op.name for op in named(module, "d").ancestors()] == ["scf.for", "func.func", "builtin.module"]


def test_builders_give_locations() -> None:
    module = parse(TEXT, "net.mir")
    new = Builder.before(named(module, "b")).add(arith.NegF(module.body.ops[0].body.args[0]), "neg")
    assert new.location == Location("net.mir", 3, 8)
    own = Location("other", 1, 1)
    assert Builder.before(new).add(arith.NegF(new.operands[0], location=own)).location == own


def test_an_older_value_keeps_its_name() -> None:
    module = parse(TEXT)
    b = named(module, "b")
    Builder.before(named(module, "a")).add(arith.NegF(b.operands[1]), "b")
    printed = print_module(module)
    assert "%b_1 = arith.negf %x" in printed and "%b = arith.mulf %a, %x" in printed
    assert print_module(parse(printed)) == printed


def test_building_with_declared_fields() -> None:
    block = Block([MemRefType((4, 4), f32), index], ["m", "i"])
    memory, i = block.args
    load = memref.Load(memory, [i, i])
    assert load.memory is memory and load.indices == [i, i] and load.result.type == f32
    loop = scf.For.make(i, i, i, [load.result], iv="k", names=["acc"])
    assert loop.inits == [load.result] and loop.iv.name == "k" and loop.carried[0].name == "acc"
    assert scf.For.lower.kind == "operand"
    alloc = memref.Alloc([], [], results=[MemRefType((8,), f32)], alignment=64)
    assert alloc.alignment == 64 and memref.Alloc.of(MemRefType((8,), f32)).attr("alignment") is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50), st.integers(0, 50)), max_size=40))
@settings(deadline=None)
def test_random_rewrites(steps: list[tuple[int, int, int]]) -> None:
    """Insert, replace, move, clone and erase in any order: links and users stay right."""
    func = FuncOp.make("main", [f32], [f32], ["x"])
    func.body.append(Return(func.args))
    module = ModuleOp(regions=[Region(Block())])
    module.body.append(func)
    for action, first, second in steps:
        ops = func.body.ops
        op, other = ops[first % len(ops)], ops[second % len(ops)]
        values = [*func.args, *(r for o in ops for r in o.results)]
        value = values[second % len(values)]
        if action == 0:
            Builder.before(op).add(arith.AddF(value, values[first % len(values)]), "new")
        elif action == 1 and op.results and value is not op.results[0]:
            op.replace_by(value)
        elif action == 2 and op is not other and op.results:
            func.body.insert(op.detach(), other)
        elif action == 3 and op.results:
            func.body.insert(op.clone(), other)
        elif action == 4 and op.results and not op.results[0].users:
            op.erase()
        check(module)
