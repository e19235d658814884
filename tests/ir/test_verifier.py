"""What the verifier refuses, on IR that no text could make or that the generic form spells out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from mdsl.dialects import arith, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp, Return
from mdsl.errors import MdslError
from mdsl.ir.attributes import IntegerAttr
from mdsl.ir.core import Block, Builder, Region, VerifyError
from mdsl.ir.registry import operations
from mdsl.ir.types import f32, index
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse


def function() -> tuple[ModuleOp, FuncOp, Builder]:
    func = FuncOp.make("main", [f32, index], [], ["x", "n"])
    end = func.body.append(Return([]))
    module = ModuleOp(regions=[Region(Block())])
    module.body.append(func)
    return module, func, Builder.before(end)


def test_a_value_of_an_erased_op() -> None:
    module, func, builder = function()
    neg = builder.add(arith.NegF(func.args[0]), "neg")
    builder.add(arith.NegF(neg.result))
    neg.detach()
    with pytest.raises(VerifyError, match="operand %neg belongs to an erased operation"):
        verify(module)


def test_a_value_from_inside_a_loop() -> None:
    module, func, builder = function()
    n = func.args[1]
    loop = builder.add(scf.For.make(n, n, n))
    inner = loop.body.append(arith.NegF(func.args[0]))
    loop.body.append(scf.Yield([]))
    builder.add(arith.NegF(inner.result))
    with pytest.raises(VerifyError, match="does not dominate its use"):
        verify(module)


def test_a_value_of_another_function() -> None:
    module, func, _ = function()
    other = FuncOp.make("other", [], [])
    other.body.append(arith.NegF(func.args[0]))
    other.body.append(Return([]))
    module.body.append(other)
    with pytest.raises(VerifyError, match="%x does not dominate its use"):
        verify(module)


def test_blocks_end_in_terminators() -> None:
    module, func, builder = function()
    n = func.args[1]
    loop = builder.add(scf.For.make(n, n, n))
    loop.body.append(arith.NegF(func.args[0]))
    with pytest.raises(VerifyError, match="the last operation in 'scf.for' must be a terminator"):
        verify(module)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ('%r = "arith.addf"(%x) : (f32) -> f32', "takes 2 operands, got 1"),
        ('%r, %q = "arith.addf"(%x, %x) : (f32, f32) -> (f32, f32)', "takes 1 results, got 2"),
        ('%r = "arith.addf"(%x, %n) : (f32, index) -> f32', "operand 'rhs' must be a float"),
        (
            '%r = "arith.addf"(%x, %x) : (f32, f32) -> f64',
            "operands and results must be of one type, got f32, f64",
        ),
        (
            '"scf.for"(%n, %n) ({\n^bb0(%i: index):\n scf.yield\n}) : (index, index) -> ()',
            "takes at least 3 operands, got 2",
        ),
        ('"scf.for"(%n, %n, %n) : (index, index, index) -> ()', "the body must take the counter"),
        ('"memref.store"(%x) : (f32) -> ()', "takes at least 2 operands, got 1"),
        (
            '%r = "arith.cmpf"(%x, %x) {predicate = 16 : i64} : (f32, f32) -> i1',
            "must be an i64 from 0 to 15",
        ),
        ('%r = "arith.constant"() {value = 1.0 : f64} : () -> f32', "value 1.0 : f64 is not of type f32"),
        ('%r = "memref.alloc"(%n) : (index) -> memref<?xf32>', "attribute 'operandSegmentSizes' is missing"),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 1>} : (index) -> memref<?xf32>',
            "'operandSegmentSizes' must be 2 numbers",
        ),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 2, -1>} : (index) -> memref<?xf32>',
            "'operandSegmentSizes' must be 2 numbers",
        ),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 1, 1>} : (index) -> memref<?xf32>',
            "operandSegmentSizes do not fit 1 operands",
        ),
        (
            '%r = "memref.alloc"() {operandSegmentSizes = array<i32: 0, 0>} : () -> memref<?xf32>',
            "0 values for 1 unknown sizes",
        ),
        ('%r = "tensor.empty"(%n) : (index) -> tensor<4xf32>', "1 values for 0 unknown sizes"),
        (
            "%d = tensor.empty() : tensor<1x1x2x2xf32>\n%s = tensor.empty() : tensor<2x1xf32>\n"
            "%r = linalg.pack %s inner_dims_pos = [0, 0] inner_tiles = [2, 2] into %d"
            " : tensor<2x1xf32> -> tensor<1x1x2x2xf32>",
            "inner_dims_pos and inner_tiles do not fit",
        ),
        ("%r = arith.select %x, %x, %x : f32, f32, f32", ""),
    ],
)
def test_generic_ops(op: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        parse(f"func.func @main(%x: f32, %n: index) {{\n{op}\nfunc.return\n}}")
    assert message in str(error.value)


def test_every_declaration_is_documented() -> None:
    assert len(operations()) > 100
    for name, declaration in operations().items():
        assert declaration.name == name
        assert declaration.__doc__, f"{name} says nothing of what it does"
        fields = [f.name for f in declaration.fields]
        assert len(set(fields)) == len(fields), name


NEST = """#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
func.func @main(%x: tensor<4x3xf32>, %m: memref<4x3xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %r = linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]}
    ins(%x : tensor<4x3xf32>) outs(%y : tensor<4xf32>) {
  ^bb0(%p: f32, %o: f32):
    %i = linalg.index 0 : index
    %s = arith.addf %p, %o : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %r : tensor<4xf32>
}"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"reduction"', '"reductoin"', "'iterator_types' must be an array of iterator types"),
        ('"reduction"', '"window"', "'iterator_types' must be an array of iterator types"),
        ('"reduction"', "17", "'iterator_types' must be an array of iterator types"),
        ("[#id, #row]", "[#id, 3]", "'indexing_maps' must be an array of affine maps"),
        ("-> (d0)>", "-> (d0 + d1)>", "d0 + d1 runs from 0 to 5 in a dimension of 4"),
        ("(d0, d1) -> (d0)>", "(d0, d1)[s0] -> (d0)>", "has symbols"),
        ('"reduction"', '"parallel"', "must hold each parallel dimension and no reduction"),
        ('"parallel", "reduction"', '"reduction", "reduction"', "must hold each parallel dimension"),
        ("-> (d0)>", "-> (d0 floordiv 2)>", "must lead each iteration to an element of its own"),
        ("linalg.index 0", "linalg.index 2", "no loop around it has the dimension 2"),
        ("ins(%x : tensor<4x3xf32>)", "ins(%m : memref<4x3xf32>)", "on tensors or on memory, not on both"),
    ],
)
def test_a_nest_must_be_one_that_can_be_lowered(old: str, new: str, message: str) -> None:
    parse(NEST)
    with pytest.raises(MdslError) as error:
        parse(NEST.replace(old, new, 1))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("%r = ukernel.region -> memref<4xf32> { ukernel.yield %m : memref<4xf32> }", "a tensor or a number"),
        (
            '%r = "ukernel.region"() ({\n^bb0(%i: index):\nukernel.yield %x : f32\n}) : () -> f32',
            "its block takes no arguments",
        ),
        ("%r = func.call @main(%x) : (f32) -> f32", "@main is no function of type (f32) -> f32"),
        ("%r = tensor.from_elements %n, %n : tensor<2xf32>", "elements and output must be of one element type"),
        ("%r = tensor.cast %t : tensor<4xf32> to tensor<5xf32>", "cannot see tensor<4xf32> as tensor<5xf32>"),
        (
            "%r = tensor.extract_slice %t[%n] [2] [1] : tensor<4xf32> to tensor<2xi32>",
            "source and output must be of one element type",
        ),
        (
            "%r = tensor.expand_shape %t [[0, 1]] output_shape [4, 1] : tensor<4xf32> into tensor<2x2xf32>",
            "output_shape [4, 1] is not [2, 2]",
        ),
        (
            "%u = tensor.expand_shape %t [[0, 1]] output_shape [4, 1] : tensor<4xf32> into tensor<4x1xf32>\n"
            "%r = tensor.expand_shape %u [[0, 1], []] output_shape [1, 4] : tensor<4x1xf32> into tensor<1x4xf32>",
            "reassociation [[0, 1], []] has a dimension that stands for none",
        ),
        (
            "%r = tensor.pad %t low[1] high[0] {\n^bb0(%i: index):\ntensor.yield %i : index\n}"
            " : tensor<4xf32> to tensor<5xf32>",
            "the body must end in 'tensor.yield' with a f32",
        ),
        ('%r = "memref.alloc"() {alignment = 3, operandSegmentSizes = array<i32: 0, 0>} : () -> memref<4xf32>',
         "a power of two"),
        ("%r = arith.index_cast %n : index to index", "casts between index and another integer"),
        ("%r = arith.sitofp %n : index to f32", "an integer of a fixed width"),
        ("%v = vector.broadcast %x : f32 to vector<4xf32>\n"
         "%r = vector.shuffle %v, %v [0, 8] : vector<4xf32>, vector<4xf32>", "does not choose"),
        ("%v = vector.broadcast %x : f32 to vector<4xf32>\n"
         "%r = vector.shuffle %v, %v [] : vector<4xf32>, vector<4xf32>", "does not choose"),
        ("%r = vector.step : vector<4xf32>", "vector<Nxindex>"),
        (
            "%e = tensor.empty() : tensor<1xf32>\n%r = linalg.broadcast ins(%x : f32) outs(%e : tensor<1xf32>)"
            " dimensions = [0, 0]",
            "are not some of 1",
        ),
    ],
)  # fmt: skip
def test_ops_that_no_pass_could_lower(op: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        parse(
            f"func.func @main(%x: f32, %n: index, %t: tensor<4xf32>, %m: memref<4xf32>) {{\n{op}\nreturn\n}}"
        )
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("type", "message"),
    [
        ("memref<0x9xf32, strided<[99999999999999999999999, 1]>>", "too many elements"),
        ("memref<4xf32, strided<[1], offset: 9223372036854775807>>", "too many elements"),
        ("vector<0xf32>", "no positive number"),
        ("vector<?xf32>", "no positive number"),
    ],
)
def test_types_that_nothing_can_hold(type: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        parse(f"func.func @main(%x: {type}) {{\nreturn\n}}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            "%r = memref.view %w[%n][] : memref<8x1xi8> to memref<2xf32>",
            "views dense memory of i8 in one dimension",
        ),
        ("%r = memref.alloc() : memref<4xf32, strided<[1], offset: ?>>", "must be known"),
        ("%r = memref.cast %m : memref<4xf32> to memref<4xf32, strided<[1], offset: 3>>", "only the offset"),
    ],
)
def test_views_that_are_none(op: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        parse(f"func.func @main(%n: index, %m: memref<4xf32>, %w: memref<8x1xi8>) {{\n{op}\nreturn\n}}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("op", "operands", "result"),
    [
        *((f"arith.{name}", 2, "memref<4xf32>") for name in ("addf", "divf", "maximumf")),
        *((f"arith.{name}", 2, "memref<4xi32>") for name in ("addi", "shli")),
        ("math.exp", 1, "memref<4xf32>"),
        ("math.fma", 3, "memref<4xf32>"),
        ("math.absi", 1, "memref<4xi32>"),
        ("arith.negf", 1, "memref<4xf32>"),
        ("arith.bitcast", 1, "index"),
        *(("vector.fma", 3, f"vector<4x{element}>") for element in ("i32", "i1", "index")),
        *((f"nn.shift_{side}", 2, "tensor<4xi1>") for side in ("left", "right")),
    ],
)
def test_elements_on_which_an_op_means_nothing(op: str, operands: int, result: str) -> None:
    """Of one type, as the op wants it, but of none that it takes."""
    types = ", ".join([result] * operands)
    with pytest.raises(MdslError, match="must be a"):
        parse(
            f"func.func @main(%x: {result}) {{\n"
            f'%y = "{op}"({", ".join(["%x"] * operands)}) : ({types}) -> {result}\nreturn\n}}'
        )


def test_a_view_larger_than_what_it_views() -> None:
    text = "func.func @main(%n: index, %m: memref<SIZExi8>) {\n%v = memref.view %m[%n][] : memref<SIZExi8> to memref<2xf32>\nreturn\n}"
    parse(text.replace("SIZE", "8"))
    parse(text.replace("SIZE", "?"))
    with pytest.raises(MdslError, match="has 8 bytes"):
        parse(text.replace("SIZE", "7"))


PADDED = "{\n^bb0(%p: index, %q: index):\ntensor.yield %s : f32\n}"


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("%r = tensor.concat dim(0) %a, %i : (T, tensor<2x3xi32>) -> tensor<4x3xf32>", "one element type"),
        ("%r = tensor.concat dim(0) %a, %w : (T, tensor<2x4xf32>) -> tensor<4x3xf32>", "differ in dimension 1"),
        ("%r = tensor.concat dim(0) %a, %a : (T, T) -> tensor<5x3xf32>", "makes a tensor<4x3xf32>"),
        ("%r = tensor.concat dim(0) %a, %d : (T, tensor<?x3xf32>) -> tensor<?x3xf32>", None),
        ("%r = tensor.concat dim(0) %a, %d : (T, tensor<?x3xf32>) -> tensor<4x3xf32>", None),
        ("%r = tensor.concat dim(1) %d, %a : (tensor<?x3xf32>, T) -> tensor<2x6xf32>", None),
        ("%r = tensor.dim %z, %c : tensor<f32>", "at least one dimension"),
        (f"%r = tensor.pad %a low[1, 0] high[1, 0] {PADDED} : T to tensor<?x3xf32>", "2 with 1 before"),
        (f"%r = tensor.pad %d low[1, 0] high[1, 0] {PADDED} : tensor<?x3xf32> to tensor<4x3xf32>", None),
        ("tensor.parallel_insert_slice %a into %a[0, 0] [2, 3] [1, 1] : T into T", "stands in"),
        (
            "%r = scf.forall (%k) = (0) to (2) step (1) shared_outs(%o = %a) -> (T) {\nscf.forall.in_parallel {\n"
            "tensor.parallel_insert_slice %a into %a[0, 0] [2, 3] [1, 1] : T into T\n}\n}",
            "only to what the loop shares",
        ),
    ],
)  # fmt: skip
def test_tensors_that_upstream_takes_and_refuses(op: str, message: str | None) -> None:
    text = (
        "func.func @main(%a: T, %i: tensor<2x3xi32>, %w: tensor<2x4xf32>, %d: tensor<?x3xf32>, %z: tensor<f32>, "
        f"%s: f32, %c: index) {{\n{op}\nreturn\n}}"
    ).replace("T,", "tensor<2x3xf32>,").replace(" T", " tensor<2x3xf32>").replace("(T", "(tensor<2x3xf32>")  # fmt: skip
    if message is None:
        parse(text)
        return
    with pytest.raises(MdslError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ('%r = "nn.linear"(%m, %w, %b, %b) : (M, W, B, B) -> tensor<2x4xf32>', "takes one 'bias' at most, got 2"),
        ('%r = "nn.layer_norm"(%m, %s, %s, %s) : (M, S, S, S) -> M', "takes one 'shift' at most, got 2"),
        ("%r = tensor.extract_slice %m[%n, 0] [2, 3] [2, 1] : M to M", "[?] [2] [2] leaves a dimension of 2"),
        (
            "%r = tensor.insert_slice %m into %m[%n, 0] [2, 3] [9223372036854775807, 1] : M into M",
            "leaves a dimension of 2",
        ),
        ('"mvm.fill"(%f, %x, %n) {count = -1} : (f32, memref<16xf32>, index) -> ()', "an i64 from 1"),
        ('"mvm.fill"(%f, %y, %n) {count = 1} : (f32, Y, index) -> ()', "a dense memref"),
        ('"mvm.copy"(%x, %n, %x, %n) {count = 1, element = V} : (X, index, X, index) -> ()', "type of a number"),
        (
            "%r = scf.forall (%k) = (0) to (2) step (0) shared_outs(%o = %m) -> (M) {\nscf.forall.in_parallel {\n}\n}",
            "steps must be positive",
        ),
        (
            '"mvm.dispatch"(%n, %x) {callee = @k, layout = [array<i64: 1, 1, 4, 0>]} : (index, memref<16xf32>) -> ()',
            "a buffer of 'layout' is a memref",
        ),
        (
            '"mvm.dispatch"(%x) {callee = @k, batch = 0, layout = [array<i64: 1, 0, 0, 0>]} : (memref<16xf32>) -> ()',
            "an i64 from 1",
        ),
    ],
)  # fmt: skip
def test_groups_counts_and_slices_that_cannot_be(op: str, message: str) -> None:
    types = {"M": "tensor<2x3xf32>", "W": "tensor<4x3xf32>", "B": "tensor<4xf32>", "S": "tensor<3xf32>",
             "X": "memref<16xf32>", "Y": "memref<16xf32, strided<[2]>>"}  # fmt: skip
    op = re.sub(r"\b[MWBSXY]\b", lambda letter: types[letter[0]], op).replace("= V", "= vector<4xf32>")
    arguments = ", ".join(f"%{name.lower()}: {type}" for name, type in types.items())
    with pytest.raises(MdslError) as error:
        parse(
            f"func.func @main({arguments}, %n: index, %f: f32) {{\n{op}\nreturn\n}}\n"
            "ukernel.func @k(%m: memref<4xf32>) {\nukernel.return\n}"
        )
    assert message in str(error.value)


def retype_the_operand(func: FuncOp, loop: scf.For) -> None:
    func.args[1].type = f32


def retype_the_result(func: FuncOp, loop: scf.For) -> None:
    loop.body.terminator.prev.results[0].type = index  # type: ignore[union-attr]


def drop_the_counter(func: FuncOp, loop: scf.For) -> None:
    loop.body.erase_arg(0)


def drop_an_operand(func: FuncOp, loop: scf.For) -> None:
    loop.operands = loop.operands[:2]


def change_an_attribute(func: FuncOp, loop: scf.For) -> None:
    func.attributes["sym_name"] = IntegerAttr(1)


@pytest.mark.parametrize(
    "harm",
    [retype_the_operand, retype_the_result, drop_the_counter, drop_an_operand, change_an_attribute],
)
def test_what_breaks_after_it_was_verified(harm: Callable[[FuncOp, scf.For], None]) -> None:
    module, func, builder = function()
    n = func.args[1]
    loop = builder.add(scf.For.make(n, n, n))
    loop.body.append(arith.NegF(func.args[0]))
    loop.body.append(scf.Yield([]))
    verify(module)
    harm(func, loop)
    with pytest.raises(VerifyError):
        verify(module)


def test_a_long_op_is_shown_in_part() -> None:
    """One that returns hundreds of values, as a training step does."""
    values = ", ".join(["%x"] * 300)
    types = ", ".join(["f32"] * 300)
    text = f"func.func @f(%x: f32) -> ({types}) {{\n  func.return {values} : {types}\n}}\n"
    op = next(op for op in parse(text, "net.mir").walk() if op.name == "func.return")
    place, shown = op.error("must be one number").lines()
    assert place == "net.mir:2:3: error: 'func.return': must be one number"
    assert shown.startswith("  func.return %x, %x") and shown.endswith("...") and len(shown) < 410
