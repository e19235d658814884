"""A dimension of size 0 anywhere: every engine computes what the reference does, or the verifier refuses the program."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

import mdsl

SETTINGS = ({}, {"engine": "jit", "unroll_dispatch": 2}, {"ukernels": False, "threads": 2})
DTYPES = {"f16": np.float16, "f32": np.float32, "i32": np.int32, "i64": np.int64}
SIZES = {"A": 2, "B": 3, "C": 4}

# Op, attributes, operand types, result type; A, B and C are sizes, any of which may be 0.
NN = [
    ("relu", "", "AxB", "AxB"), ("add", "", "AxB B", "AxB"), ("mul", "", "Ax1 B", "AxB"), ("sign", "", "AxB", "AxB"),
    ("compare", 'kind = "lt"', "AxB AxB", "AxBxi1"), ("cast", "", "AxB", "AxBxi32"),
    *(("reduce", f'kind = "{kind}", axes = [1], keepdims = false', f"AxBxCx{element}", f"AxCx{element}")
      for kind in ("sum", "prod", "max", "min") for element in ("f32", "f16", "i32")),
    ("reduce", 'kind = "mean", axes = [0, 2], keepdims = true', "AxBxC", "1xBx1"),
    ("argmax", "axis = 1, keepdims = false", "AxB", "Axi64"), ("argsort", "axis = 0", "AxB", "AxBxi64"),
    ("reshape", "", "AxB", "BxA"), ("flatten", "axis = 0", "AxB", "1x{A*B}"), ("transpose", "perm = [1, 0]", "AxB", "BxA"),
    ("concat", "axis = 0", "AxB CxB", "{A+C}xB"), ("slice", "starts = [1], ends = [9], axes = [0]", "AxB", "{A-(A>0)}xB"),
    ("pad", "pads = [0, 1, 1, 2], value = 3.0", "AxB", "{A+1}x{B+3}"), ("broadcast", "", "Ax1", "AxB"),
    ("gather", "axis = 0", "AxB Cxi64", "CxB"), ("gather", "axis = 1", "AxB Cx2xi32", "AxCx2"),
    ("scatter", "axis = 0", "AxB CxBxi64 CxB", "AxB"), ("scatter", 'axis = 1, kind = "add"', "AxB AxCxi64 AxC", "AxB"),
    ("softmax", "axis = 1", "AxB", "AxB"), ("log_softmax", "axis = 0", "AxB", "AxB"),
    ("layer_norm", "epsilon = 1.0e-5", "AxB B B", "AxB"), ("batch_norm", "epsilon = 1.0e-5", "AxBx4xC B B B B", "AxBx4xC"),
    ("matmul", "", "AxB BxC", "AxC"), ("matmul", "", "2xAxB 1xBxC", "2xAxC"), ("linear", "", "AxB CxB C", "AxC"),
    ("linear", "", "AxBxf16 CxBxf16 Cxf16", "AxCxf16"),
    ("conv2d", "pads = [1, 1, 1, 1]", "AxBx5x5 CxBx3x3 C", "AxCx5x5"), ("conv2d", "groups = 2", "1x{2*B}x5x5 {2*C}xBx3x3", "1x{2*C}x3x3"),
    ("conv2d", 'layout = "nhwc"', "Ax5x5xB CxBx3x3", "Ax3x3xC"), ("conv2d", "pads = [1, 1, 1, 1]", "1x3xAx4 2x3x1x3", "1x2x{A+2}x4"),
    ("max_pool2d", "kernel = [2, 2], strides = [2, 2]", "AxBx4x4", "AxBx2x2"),
    ("max_pool2d", "kernel = [2, 2], pads = [1, 1, 1, 1]", "1x2xAx4", "1x2x{A+1}x5"),
    ("argmax_pool2d", "kernel = [2, 2], strides = [2, 2]", "AxBx4x4", "AxBx2x2xi32"),
    ("max_pool2d_grad", "kernel = [2, 2], strides = [2, 2]", "AxBx2x2xi32 AxBx2x2", "AxBx4x4"),
    ("avg_pool2d", "kernel = [2, 2]", "AxBx4x4", "AxBx3x3"), ("global_avg_pool", "", "AxBxCx4", "AxBx1x1"),
]  # fmt: skip

DESTINATION = """
  %zero = arith.constant 0.5 : f32
  %e = tensor.empty() : RESULT
  %f = linalg.fill ins(%zero : f32) outs(%e : RESULT) -> RESULT"""

LINALG = [
    ("matmul", "AxB BxC", "AxC"), ("batch_matmul", "2xAxB 2xBxC", "2xAxC"), ("matvec", "AxB B", "A"), ("vecmat", "A AxB", "B"),
    ("conv_2d_nchw_fchw", "AxBx6x6 CxBx3x3", "AxCx4x4"), ("conv_2d_nhwc_hwcf", "Ax6x6xB 3x3xBxC", "Ax4x4xC"),
    ("pooling_nchw_max", "AxBx6x6 3x3", "AxBx4x4"), ("pooling_nchw_sum", "AxBx6x6 3x3", "AxBx4x4"), ("copy", "AxB", "AxB"),
]  # fmt: skip

OTHERS = {
    "nothing": "func.func @main() {\n  return\n}",
    "no result": "func.func @main(%x: T[AxB]) {\n  return\n}",
    "as it came": "func.func @main(%x: T[AxB]) -> (T[AxB], T[AxB]) {\n  return %x, %x : T[AxB], T[AxB]\n}",
    "constant": "func.func @main() -> T[AxB] {\n  %c = arith.constant dense<1.0> : T[AxB]\n  return %c : T[AxB]\n}",
    "arith": "func.func @main(%x: T[AxB]) -> T[AxB] {\n  %y = arith.addf %x, %x : T[AxB]\n  return %y : T[AxB]\n}",
    "called": "func.func @main(%x: T[AxB]) -> T[AxB] {\n  %y = func.call @f(%x) : (T[AxB]) -> T[AxB]\n  return %y : T[AxB]\n}\n"
    "func.func @f(%x: T[AxB]) -> T[AxB] {\n  return %x : T[AxB]\n}",
    "insert": "func.func @main(%x: T[AxB], %y: T[5xB]) -> T[5xB] {\n"
    "  %r = tensor.insert_slice %x into %y[0, 0] [{A}, {B}] [1, 1] : T[AxB] into T[5xB]\n  return %r : T[5xB]\n}",
    "extract": "func.func @main(%x: T[5xB]) -> T[AxB] {\n"
    "  %r = tensor.extract_slice %x[1, 0] [{A}, {B}] [1, 1] : T[5xB] to T[AxB]\n  return %r : T[AxB]\n}",
    "for": "func.func @main(%x: T[AxB]) -> T[AxB] {\n  %c0 = arith.constant 0 : index\n  %c1 = arith.constant 1 : index\n"
    "  %n = arith.constant {C} : index\n  %r = scf.for %i = %c0 to %n step %c1 iter_args(%a = %x) -> (T[AxB]) {\n"
    "    %s = arith.addf %a, %x : T[AxB]\n    scf.yield %s : T[AxB]\n  }\n  return %r : T[AxB]\n}",
    "memrefs": "func.func @main(%x: M[AxB], %w: M[BxC], %y: M[AxC] {mdsl.output}) {\n  %z = arith.constant 0.0 : f32\n"
    "  linalg.fill ins(%z : f32) outs(%y : M[AxC])\n  linalg.matmul ins(%x, %w : M[AxB], M[BxC]) outs(%y : M[AxC])\n"
    "  return\n}",
}


def tensor(shape: str) -> str:
    return f"T[{shape}]"


def nn(op: str, attributes: str, operands: str, result: str) -> str:
    types = [*map(tensor, operands.split())]
    names = ", ".join(f"%x{i}" for i in range(len(types)))
    arguments = ", ".join(f"%x{i}: {t}" for i, t in enumerate(types))
    braces = f"{{{attributes}}}".replace("{}", "")
    return (
        f"func.func @main({arguments}) -> {tensor(result)} {{\n"
        f"  %y = nn.{op} {names} {braces} : ({', '.join(types)}) -> {tensor(result)}\n  return %y : {tensor(result)}\n}}"
    )


def linalg(op: str, operands: str, result: str) -> str:
    types = [*map(tensor, operands.split())]
    names = ", ".join(f"%x{i}" for i in range(len(types)))
    arguments = ", ".join(f"%x{i}: {t}" for i, t in enumerate(types))
    return (
        f"func.func @main({arguments}) -> {tensor(result)} {{{DESTINATION.replace('RESULT', tensor(result))}\n"
        f"  %y = linalg.{op} ins({names} : {', '.join(types)}) outs(%f : {tensor(result)}) -> {tensor(result)}\n"
        f"  return %y : {tensor(result)}\n}}"
    )


PROGRAMS = {
    **{
        f"nn.{op} {attributes} {operands}": nn(op, attributes, operands, result)
        for op, attributes, operands, result in NN
    },
    **{f"linalg.{op}": linalg(op, operands, result) for op, operands, result in LINALG},
    **OTHERS,
}


def with_sizes(program: str, sizes: dict[str, int]) -> str:
    """`T[AxBxf16]` and `M[..]` as types of these sizes, f32 where none is written, and `{A+1}` as a number."""

    def type_of(match: re.Match[str]) -> str:
        *dims, last = match[2].split("x")
        dims, element = ([*dims], last) if re.fullmatch(r"[fi]\d+", last) else ([*dims, last], "f32")
        shape = "x".join([*(str(eval(d.strip("{}"), {}, sizes)) for d in dims), element])
        return f"{'tensor' if match[1] == 'T' else 'memref'}<{shape}>"

    program = re.sub(r"\b([TM])\[((?:\{[^}]*\}|[^\]{])*)\]", type_of, program)
    return re.sub(r"\{([ABC])\}", lambda m: str(sizes[m[1]]), program)


def outcome(program: str, **settings: object) -> list[np.ndarray] | str:
    """The results, or what the verifier says."""
    try:
        executable = mdsl.compile(program, **settings)  # type: ignore[arg-type]
    except mdsl.MdslError as error:
        return str(error)
    random = np.random.default_rng(0)
    # Integers are places of what may have one element only.
    inputs = [
        np.asarray(random.standard_normal(s.shape) * (s.dtype[0] == "f"), DTYPES[s.dtype])
        for s in executable.inputs
    ]
    found = executable(*inputs)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["sample", "every"]
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_sizes_of_zero(name: str, every: bool) -> None:
    """Each of its programs with every setting, or with one after the other."""
    choices = [dict.fromkeys(zeros, 0) for n in (1, 2, 3) for zeros in combinations(SIZES, n)]
    programs = {with_sizes(PROGRAMS[name], {**SIZES, **zeros}): zeros for zeros in choices}
    settings = [
        s for s in SETTINGS if name != "memrefs" or "unroll_dispatch" not in s
    ]  # comes too late for it
    for number, (program, zeros) in enumerate(programs.items()):
        wanted = outcome(program, engine="reference")
        for setting in settings if every else [settings[number % len(settings)]]:
            found = outcome(program, **setting)
            if isinstance(wanted, str) or isinstance(found, str):
                assert found == wanted, (zeros, setting)
                continue
            for a, b in zip(found, wanted, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=f"{zeros} {setting}")


@pytest.mark.parametrize("name", ["nn.argmax axis = 1, keepdims = false AxB", "nn.gather axis = 0 AxB Cxi64"])
def test_what_is_not_defined_is_refused_where_it_stands(name: str) -> None:
    said = outcome(
        with_sizes(
            PROGRAMS[name],
            {"A": 0 if "gather" in name else 2, "B": 0, "C": 4} | ({"B": 3} if "gather" in name else {}),
        )
    )
    assert isinstance(said, str)
    assert re.match(r"<text>:2:\d+: error: 'nn\.\w+': there is no", said)


@pytest.mark.parametrize(
    "setting", [{"tune": True}, {"winograd": False}, {"unroll_dispatch": 2}, {"ukernels": False}], ids=str
)
def test_programs_without_work_take_every_setting(setting: dict) -> None:
    for name in ("nothing", "no result", "as it came", "constant", "arith", "called"):
        assert not isinstance(outcome(with_sizes(PROGRAMS[name], SIZES), **setting), str)


@pytest.mark.parametrize(
    "body",
    [
        "func.func private @f() {\n  return\n}\nfunc.func @main() {\n  func.call @f() : () -> ()\n  return\n}",
        "func.func @main(%x: memref<4xf32>) {\n  return\n}",
    ],
)
def test_programs_without_ops_are_on_no_level_yet(body: str) -> None:
    """Memrefs of arguments do not tell that passes have run."""
    for setting in ({}, *SETTINGS, {"winograd": False}):
        assert not isinstance(outcome(body, **setting), str)


@pytest.mark.parametrize("given", ["nn.dynamic_broadcast %x, %shape", "nn.dynamic_reshape %x, %shape"])
def test_an_operand_without_elements_needs_no_value(given: str) -> None:
    """To the shape () of a scalar: there are no numbers to be told."""
    x = "tensor<f32>" if "broadcast" in given else "tensor<1x1xf32>"
    program = f"""func.func @main(%x: {x}, %shape: tensor<0xi64>) -> tensor<f32> {{
  %y = {given} : ({x}, tensor<0xi64>) -> tensor<f32>
  return %y : tensor<f32>
}}"""
    value = np.full(() if "broadcast" in given else (1, 1), 3, np.float32)
    for engine in ("reference", "vm", "jit"):
        assert mdsl.compile(program, engine=engine)(value, np.empty(0, np.int64)) == 3


def test_open_dimensions_of_zero() -> None:
    """The first step with an empty cache, by the sizes of a call and by `bind`."""
    program = """func.func @main(%past: tensor<?x4xf32> {mdsl.dims = ["past", ""]}, %new: tensor<2x4xf32>) -> tensor<?x4xf32> {
  %all = nn.concat %past, %new {axis = 0} : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  return %all : tensor<?x4xf32>
}"""
    new = np.ones((2, 4), np.float32)
    for engine in ("reference", "vm", "jit"):
        for bind in ({}, {"past": 0}):
            found = mdsl.compile(program, engine=engine, bind=bind)(np.empty((0, 4), np.float32), new)
            np.testing.assert_array_equal(found, new)
    assert "tensor<0x4xf32>" in str(mdsl.opt(program, "bind{sizes=[past=0]}"))


def test_an_input_without_elements_may_be_bound_to_its_value() -> None:
    onnx = pytest.importorskip("onnx")
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("NonZero", ["x"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, [0, 3])], [onnx.helper.make_empty_tensor_value_info("y")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    found = mdsl.compile(model)(np.empty((0, 3), np.float32))
    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 0)
