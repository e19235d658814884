"""nn: shape inference, folding, and what the verifier says."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest

import mdsl.reference  # noqa: F401  (registers the semantics)
from mdsl.dialects import nn
from mdsl.dialects.nn.base import NnOp
from mdsl.errors import MdslError
from mdsl.ir.core import Block
from mdsl.ir.registry import operations
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import FLOATS, TensorType, f32, i32
from mdsl.syntax.parser import parse

# Inference ------------------------------------------------------------------------------------------------


def line(text: str) -> NnOp:
    """`nn.relu {..} : (types) -> type` as an op on a function's arguments, which the parser verifies."""
    head, types = text.split(" : ", 1)
    name, _, attributes = head.partition(" ")
    inputs = types[: types.index(") -> ")].removeprefix("(").split(", ")
    names = [f"%a{i}" for i in range(len(inputs))]
    signature = ", ".join(f"{n}: {t}" for n, t in zip(names, inputs, strict=True))
    result = types.split(") -> ")[1]
    call = f"%y = {name} {', '.join(names)} {attributes} : {types}"
    module = parse(
        f"func.func @f({signature}) -> {result} {{\n{call}\nfunc.return %y : {result}\n}}", "t.mir"
    )
    op = module.body.ops[0].body.ops[0]
    assert isinstance(op, NnOp)
    return op


@pytest.mark.parametrize(
    "text",
    [
        "nn.conv2d {pads = [1, 1, 1, 1]} : (tensor<?x3x?x8xf32>, tensor<4x3x3x3xf32>) -> tensor<?x4x?x8xf32>",
        "nn.linear : (tensor<?x7xf32>, tensor<3x7xf32>, tensor<3xf32>) -> tensor<?x3xf32>",
        "nn.matmul : (tensor<?x1x?xf32>, tensor<5x4x2xf32>) -> tensor<5x1x2xf32>",
        "nn.add : (tensor<?x1xf32>, tensor<8xf32>) -> tensor<?x8xf32>",
        "nn.flatten {axis = 1} : (tensor<?x2x3xf32>) -> tensor<?x6xf32>",
        "nn.reshape : (tensor<?x2x3xf32>) -> tensor<?x6xf32>",
        "nn.reshape : (tensor<4x2x3xf32>) -> tensor<?x6xf32>",
        "nn.concat {axis = 0} : (tensor<?x2xf32>, tensor<3x2xf32>) -> tensor<?x2xf32>",
        "nn.global_avg_pool : (tensor<?x2x?x?xf32>) -> tensor<?x2x1x1xf32>",
    ],
)
def test_unknown_sizes_pass_through(text: str) -> None:
    line(text)


def test_a_reshape_solves_its_unknown_size() -> None:
    (found,) = line("nn.reshape : (tensor<4x2x3xf32>) -> tensor<?x6xf32>").infer()
    assert found == TensorType((4, 6), f32)


def test_every_op_takes_every_float() -> None:
    for element in FLOATS:
        value = Block([TensorType((1, 2, 4, 4), element)]).args[0]
        for kind in (nn.Relu, nn.Exp, nn.Softmax, nn.GlobalAvgPool):
            assert tensor_of(kind(value).result).element == element


def test_identities_fold() -> None:
    value = Block([TensorType((2, 3), i32)]).args[0]
    same = value.type
    for op in (
        nn.Reshape(value, results=[same]),
        nn.Flatten(value),
        nn.Transpose(value, perm=[0, 1]),
        nn.Cast(value, results=[same]),
        nn.Broadcast(value, results=[same]),
        nn.Pad(value, pads=[0, 0, 0, 0]),
    ):
        assert op.fold() == [value]
    assert nn.Transpose(value).fold() is None


# Errors ---------------------------------------------------------------------------------------------------

ERRORS = [
    ("nn.relu : (tensor<2xf32>) -> tensor<3xf32>", "the result is a tensor<2xf32>, not a tensor<3xf32>"),
    ("nn.relu : (tensor<2xi1>) -> tensor<2xi1>", "'x' must be a tensor of floats or integers (not i1), got tensor<2xi1>"),
    ("nn.exp : (tensor<2xi32>) -> tensor<2xi32>", "'x' must be a tensor of floats, got tensor<2xi32>"),
    ("nn.clip {max = 300} : (tensor<2xi8>) -> tensor<2xi8>", "max must be a number that i8 holds, got 300"),
    ('nn.gelu {approximate = "fast"} : (tensor<2xf32>) -> tensor<2xf32>', 'must be one of "none", "tanh", got "fast"'),
    ("nn.add : (tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x3xf32>", "shapes 2x3 and 2 do not broadcast together"),
    ("nn.add : (tensor<2xf32>, tensor<2xf64>) -> tensor<2xf32>", "operands must have one element type, got f32, f64"),
    ("nn.pow : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>", "must be a tensor of floats"),
    ('nn.compare {kind = "lt"} : (tensor<2xi1>, tensor<2xi1>) -> tensor<2xi1>', 'kind "lt" has no meaning for i1'),
    ('nn.compare {kind = "lt"} : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>', "'y' must be a tensor of i1"),
    ("nn.select : (tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>", "'cond' must be a tensor of i1"),
    ("nn.cast : (tensor<2xf32>) -> tensor<3xi32>", "the result is a tensor<2xi32>, not a tensor<3xi32>"),
    ("nn.conv2d : (tensor<3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<4x6x6xf32>", "x must have 4 dimensions, got tensor<3x8x8xf32>"),
    ("nn.conv2d : (tensor<1x3x8x8xf32>, tensor<4x2x3x3xf32>) -> tensor<1x4x6x6xf32>", "x has 3 channels"),
    ("nn.conv2d {groups = 2} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>", "groups = 2 does not divide 3 input"),
    ("nn.conv2d {groups = 0} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>", "groups = 0"),
    ("nn.conv2d {pads = [1, 1]} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>", "pads must hold 4 integers, got 2"),
    ("nn.conv2d {pads = [1, 1, -1, 1]} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>", "pads must be at least 0"),
    ("nn.conv2d {strides = [0, 1]} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>", "strides must be at least 1"),
    ("nn.conv2d : (tensor<1x3x2x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x1x6xf32>", "a window of height 3 does not fit into 2"),
    ("nn.conv2d : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>, tensor<3xf32>) -> tensor<1x4x6x6xf32>", "bias must have 4 elements, got tensor<3xf32>"),
    ('nn.conv2d {layout = "chwn"} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x6x6xf32>', 'must be one of "nchw", "nhwc"'),
    ("nn.matmul : (tensor<5x7xf32>, tensor<6x3xf32>) -> tensor<5x3xf32>", "inner dimensions differ: 5x7 times 6x3"),
    ("nn.matmul : (tensor<f32>, tensor<6x3xf32>) -> tensor<3xf32>", "must have at least 1 dimension"),
    ("nn.matmul : (tensor<2x5x7xf32>, tensor<3x7x3xf32>) -> tensor<2x5x3xf32>", "shapes 2 and 3 do not broadcast together"),
    ("nn.linear : (tensor<5x7xf32>, tensor<3x6xf32>) -> tensor<5x3xf32>", "wants 6 features in x's last dimension"),
    ("nn.linear : (tensor<5x7xf32>, tensor<3x7xf32>, tensor<7xf32>) -> tensor<5x3xf32>", "bias must have 3 elements"),
    ("nn.batch_norm : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<2xf32>, tensor<3xf32>) -> tensor<2x3xf32>", "mean must have 3 elements"),
    ("nn.layer_norm {axis = 0} : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>", "scale must have the shape 2x3, got tensor<3xf32>"),
    ("nn.softmax {axis = 2} : (tensor<2x3xf32>) -> tensor<2x3xf32>", "axis 2 is out of range for 2 dimensions"),
    ("nn.log_softmax {axis = -3} : (tensor<2x3xf32>) -> tensor<2x3xf32>", "axis -3 is out of range for 2 dimensions"),
    ("nn.max_pool2d : (tensor<1x1x4x4xf32>) -> tensor<1x1x3x3xf32>", "attribute 'kernel' is missing"),
    ("nn.max_pool2d {kernel = [2]} : (tensor<1x1x4x4xf32>) -> tensor<1x1x3x3xf32>", "kernel must hold 2 integers, got 1"),
    ("nn.avg_pool2d {kernel = [2, 2], pads = [2, 0, 0, 0]} : (tensor<1x1x4x4xf32>) -> tensor<1x1x5x3xf32>", "pads must be smaller than the window"),
    ('nn.reduce {kind = "product"} : (tensor<2x3xf32>) -> tensor<1x1xf32>', 'must be one of "sum", "mean", "prod", "max", "min"'),
    ('nn.reduce {kind = "mean"} : (tensor<2x3xi32>) -> tensor<1x1xi32>', "a mean wants floats"),
    ('nn.reduce {kind = "sum", axes = [0, -2]} : (tensor<2x3xf32>) -> tensor<1x3xf32>', "axes [0, -2] name a dimension twice"),
    ("nn.argsort {count = 4} : (tensor<2x3xf32>) -> tensor<2x4xi64>", "count must be 0 to 3, got 4"),
    ("nn.argsort {axis = 2} : (tensor<2x3xf32>) -> tensor<2x3xi64>", "axis 2 is out of range for 2 dimensions"),
    ("nn.scatter : (tensor<2x3xf32>, tensor<4x3xi64>, tensor<4x2xf32>) -> tensor<2x3xf32>", "updates must have the shape 2x3 but for axis 0, got tensor<4x2xf32>"),
    ("nn.scatter : (tensor<2x3xf32>, tensor<3xi64>, tensor<4x3xi32>) -> tensor<2x3xf32>", "operands must have one element type, got f32, i32"),
    ("nn.scatter : (tensor<2x3xf32>, tensor<4x2xi64>, tensor<4x3xf32>) -> tensor<2x3xf32>", "shapes 4x2 and 4x3 do not broadcast together"),
    ("nn.scatter : (tensor<2x3xf32>, tensor<5x4x3xi64>, tensor<4x3xf32>) -> tensor<2x3xf32>", "tensor<5x4x3xi64> does not broadcast to updates' shape 4x3"),
    ('nn.scatter {kind = "add"} : (tensor<2xi1>, tensor<2xi64>, tensor<2xi1>) -> tensor<2xi1>', 'kind "add" has no meaning for i1'),
    ("nn.and : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>", "'a' must be a tensor of integers, got tensor<2xf32>"),
    ("nn.sin : (tensor<2xi32>) -> tensor<2xi32>", "'x' must be a tensor of floats, got tensor<2xi32>"),
    ("nn.argmax : (tensor<2x3xf32>) -> tensor<2x1xi32>", "the result is a tensor<2x1xi64>, not a tensor<2x1xi32>"),
    ("nn.reshape : (tensor<2x3xf32>) -> tensor<7xf32>", "tensor<2x3xf32> has 6 elements, tensor<7xf32> has 7"),
    ("nn.reshape : (tensor<2x3xf32>) -> tensor<?x4xf32>", "the 6 elements of tensor<2x3xf32> do not fill tensor<?x4xf32>"),
    ("nn.reshape : (tensor<2x3xf32>) -> tensor<6xi32>", "cannot change the element type"),
    ("nn.flatten {axis = 3} : (tensor<2x3xf32>) -> tensor<6x1xf32>", "axis 3 is out of range"),
    ("nn.transpose {perm = [0, 0]} : (tensor<2x3xf32>) -> tensor<2x2xf32>", "axes [0, 0] name a dimension twice"),
    ("nn.transpose {perm = [0]} : (tensor<2x3xf32>) -> tensor<2x3xf32>", "perm must hold 2 integers, got 1"),
    ("nn.concat {axis = 0} : (tensor<2x3xf32>, tensor<2x4xf32>) -> tensor<4x3xf32>", "shapes 2x3 and 2x4 differ outside dimension 0"),
    ("nn.concat : (tensor<2x3xf32>) -> tensor<2x3xf32>", "attribute 'axis' is missing"),
    ("nn.slice {starts = [0], ends = [1, 2]} : (tensor<2x3xf32>) -> tensor<1x3xf32>", "must have equal lengths"),
    ("nn.slice {starts = [0], ends = [1], steps = [0]} : (tensor<2x3xf32>) -> tensor<1x3xf32>", "a step must not be 0"),
    ("nn.slice {starts = [0], ends = [1], axes = [2]} : (tensor<2x3xf32>) -> tensor<1x3xf32>", "axis 2 is out of range"),
    ("nn.pad {pads = [1, 1]} : (tensor<2x3xf32>) -> tensor<3x4xf32>", "pads must hold 4 integers, got 2"),
    ("nn.pad {pads = [1, 1], value = 0.5} : (tensor<2xi32>) -> tensor<4xi32>", "value must be a number that i32 holds"),
    ("nn.gather : (tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x3xf32>", "'indices' must be a tensor of i32, i64 or index"),
    ("nn.gather : (tensor<f32>, tensor<2xi64>) -> tensor<2xf32>", "axis 0 is out of range for 0 dimensions"),
    ("nn.broadcast : (tensor<2x3xf32>) -> tensor<3xf32>", "tensor<2x3xf32> does not broadcast to tensor<3xf32>"),
    ("nn.broadcast : (tensor<2xf32>) -> tensor<3xf32>", "shapes 2 and 3 do not broadcast together"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ERRORS, ids=[e[0] for e in ERRORS])
def test_errors(text: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        line(text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"t.mir:2:6: error: '{text.split(maxsplit=1)[0]}': ")


def test_the_package_has_each_op_that_its_files_declare() -> None:
    """None is hidden by another thing of its name, and no file is left out."""
    files = [import_module(f"{nn.__name__}.{file.name}") for file in iter_modules(nn.__path__)]
    kinds = [kind for file in files for kind in vars(file).values() if isinstance(kind, type)]
    declared = {kind for kind in kinds if issubclass(kind, NnOp) and "name" in vars(kind)}
    assert declared and declared == {kind for kind in operations().values() if issubclass(kind, NnOp)}
