"""mdsl.compile, load, parse, opt, and what they return."""

from __future__ import annotations

import gc
import inspect
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl import api
from mdsl.compiler.settings import DEFAULT, Settings

ROOT = Path(__file__).parents[2]
TEXT = """
func.func @main(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>) -> tensor<4x16xf32> {
  %product = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  %y = nn.relu %product : (tensor<4x16xf32>) -> tensor<4x16xf32>
  return %y : tensor<4x16xf32>
}
"""
TWO_RESULTS = """
func.func @main(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
  %negative = nn.neg %x : (tensor<3xf32>) -> tensor<3xf32>
  %double = nn.add %x, %x : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
  return %negative, %double : tensor<3xf32>, tensor<3xf32>
}
"""
X = np.random.default_rng(0).standard_normal((4, 8), np.float32)
W = np.random.default_rng(1).standard_normal((8, 16), np.float32)
Y = np.maximum(X @ W, 0)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
@pytest.mark.parametrize(
    "settings", [{}, {"ukernels": False}, {"unroll_dispatch": 2}, {"pipeline": "tile{sizes=[2,16]}"}], ids=str
)
def test_every_engine_and_setting_agrees(engine: str, settings: dict[str, object]) -> None:
    program = mdsl.compile(TEXT, engine=engine, **settings)
    np.testing.assert_allclose(program(X, W), Y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(program(w=W, x=X), Y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_a_program_outlives_its_executable(engine: str) -> None:
    run, y = mdsl.compile(TEXT, engine=engine).program.run, np.empty_like(Y)
    gc.collect()
    run([X, W], [y])
    np.testing.assert_allclose(y, Y, rtol=1e-5, atol=1e-5)


def test_signature() -> None:
    program = mdsl.compile(TEXT)
    assert [(s.name, s.dtype, s.shape) for s in program.inputs] == [
        ("x", "f32", (4, 8)),
        ("w", "f32", (8, 16)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in program.outputs] == [("y", "f32", (4, 16))]
    assert repr(program) == "<Executable (x: 4x8xf32, w: 8x16xf32) -> (y: 4x16xf32), engine vm, threads 1>"


def test_several_results_are_a_tuple() -> None:
    negative, double = mdsl.compile(TWO_RESULTS)(np.float32([1, 2, 3]))
    np.testing.assert_array_equal(negative, [-1, -2, -3])
    np.testing.assert_array_equal(double, [2, 4, 6])


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "net.mir"
    path.write_text(TEXT)
    module = mdsl.parse(TEXT)
    before = str(module)
    for source in (path, str(path), TEXT, module):
        np.testing.assert_allclose(mdsl.compile(source)(X, W), Y, rtol=1e-5, atol=1e-5)
    assert str(module) == before, "compiling altered the module"


def test_a_model_in_memory() -> None:
    helper = pytest.importorskip("onnx").helper
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, ["batch", 8])],
        [helper.make_tensor_value_info("y", 1, ["batch", 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert mdsl.compile(model, bind={"batch": np.int64(4)}).inputs[0].shape == (4, 8)
    np.testing.assert_array_equal(mdsl.compile(model)(X), np.maximum(X, 0))
    assert "nn.relu" in str(mdsl.parse(model))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("examples", "examples: error: neither a program's text nor the name of a program's file, which ends in .mir, .mbc, .onnx"),
        ("no/such/net", "no/such/net: error: neither a program's text nor the name of"),
        ("none.mir", "none.mir: error: cannot read the file: No such file"),
        ("func.func @main", "<text>:1:"),
        (b"func.func", "error: a program is a path, a text, a module or an onnx.ModelProto, not of type bytes"),
        (None, "error: a program is a path, a text, a module or an onnx.ModelProto, not of type NoneType"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_program(program: object, message: str) -> None:
    for take in (mdsl.compile, mdsl.parse):
        with pytest.raises(mdsl.MdslError, match=f"^{re.escape(message)}"):
            take(program)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("engine", ["vm", "reference"])
def test_save_and_load(tmp_path: Path, engine: str) -> None:
    mdsl.compile(TEXT, engine=engine).save(tmp_path / "net.mbc")
    assert [p.name for p in tmp_path.iterdir()] == ["net.mbc"]
    for program in (
        mdsl.load(tmp_path / "net.mbc"),
        mdsl.load(str(tmp_path / "net.mbc"), engine="jit", threads=2),
    ):
        np.testing.assert_allclose(program(X, W), Y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mdsl.compile(tmp_path / "net.mbc")(X, W), Y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
def test_pickle(engine: str) -> None:
    program = pickle.loads(pickle.dumps(mdsl.compile(TEXT, engine=engine)))
    assert program.engine == engine
    np.testing.assert_allclose(program(X, W), Y, rtol=1e-5, atol=1e-5)


def test_calls_from_several_threads() -> None:
    program = mdsl.compile(TEXT, threads=2)
    inputs = [X * i for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(inputs, pool.map(lambda x: program(x, W), inputs), strict=True):
            np.testing.assert_allclose(y, np.maximum(x @ W, 0), rtol=1e-4, atol=1e-4)


def test_an_array_that_is_not_contiguous_is_copied() -> None:
    wide = np.zeros((4, 16), np.float32)
    wide[:, ::2] = X
    np.testing.assert_allclose(
        mdsl.compile(TEXT)(wide[:, ::2], np.asfortranarray(W)), Y, rtol=1e-5, atol=1e-5
    )


def test_opt_returns_a_new_module() -> None:
    module = mdsl.parse(TEXT)
    lowered = mdsl.opt(module, "tile{sizes=[2,16]}")
    assert "nn.matmul" in str(module)
    assert "scf.forall" in str(lowered) and "nn." not in str(lowered)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(X), r"input 'w' is missing; the program takes x: 4x8xf32, w: 8x16xf32"),
        (lambda p: p(X, W, X), r"got 3 inputs; the program takes x: 4x8xf32"),
        (lambda p: p(X, v=W), r"no input 'v'"),
        (lambda p: p(X, x=X), r"input 'x' was given twice"),
        (
            lambda p: p(X.astype(np.float64), W),
            r"input 'x' must be 4x8xf32, got an array of dtype float64; .*astype\('float32'\)",
        ),
        (
            lambda p: p("x.npy", W),
            r"input 'x' must be 4x8xf32, got a str; the program takes x: 4x8xf32, w: 8x16xf32",
        ),
        (
            lambda p: p({"x": X}, W),
            r"input 'x' must be 4x8xf32, got a dict; the program takes x: 4x8xf32",
        ),
        (
            lambda p: p([[1, 2], [3]], W),
            r"input 'x' must be 4x8xf32, got a list; the program takes",
        ),
        (lambda p: p(X.T, W), r"input 'x' must be 4x8xf32, got an array of shape 8x4"),
    ],
)
@pytest.mark.parametrize("engine", ["vm", "reference"])
def test_wrong_calls(engine: str, call: object, message: str) -> None:
    with pytest.raises(mdsl.MdslError, match=message):
        call(mdsl.compile(TEXT, engine=engine))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "referense"}, "unknown engine 'referense'; did you mean 'reference'?"),
        ({"threads": 0}, "threads must be from 1"),
        ({"unroll_dispatch": 0}, "unroll_dispatch must be an integer, at least 1, got 0"),
        ({"unroll_dispatch": "4"}, "unroll_dispatch must be an integer, at least 1, got '4'"),
        ({"bind": "batch=2"}, "bind must be sizes by name, such as {'batch': 8}, got 'batch=2'"),
        ({"bind": {0: 2}}, "bind must be sizes by name, such as {'batch': 8}, got {0: 2}"),
        ({"bind": {"batch": "2"}}, "the size of dimension 'batch' must be an integer, got '2'"),
        ({"target": "z80"}, "unknown target 'z80'"),
        ({"pipeline": "tile{size=[4]}"}, "pass 'tile' has no option 'size'; did you mean 'sizes'?"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mdsl.MdslError, match=re.escape(message)):
        mdsl.compile(TEXT, **arguments)  # type: ignore[arg-type]


def test_settings_are_the_keywords_of_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {**vars(DEFAULT), "bind": None}
    keywords = inspect.signature(mdsl.compile).parameters
    assert {name: keywords[name].default for name in keywords if name in defaults} == defaults
    others = {"ukernels": False, "unroll_dispatch": 3, "winograd": False, "tune": True}
    others |= {"target": "avx2", "pipeline": "fuse", "bind": {"n": 4}}
    assert list(others) == list(defaults) == Settings(**others).chosen()
    monkeypatch.setattr(api, "build", lambda program, settings, *_: settings)
    for name, value in others.items():
        assert mdsl.compile(TEXT, **{name: value}) == replace(DEFAULT, **{name: value})


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"tune": True}, "tune"),
        ({"winograd": False, "ukernels": False}, "ukernels, winograd"),
        ({"unroll_dispatch": 1, "bind": {"n": 4}}, "unroll_dispatch, bind"),
        ({"target": "host", "pipeline": "fuse"}, "target, pipeline"),
    ],
    ids=str,
)
def test_a_compiled_program_has_its_settings(tmp_path: Path, settings: dict[str, object], names: str) -> None:
    path = tmp_path / "net.mbc"
    mdsl.compile(TEXT).save(path)
    with pytest.raises(mdsl.MdslError, match=f"^{re.escape(str(path))}: error: {names} cannot be chosen"):
        mdsl.compile(path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("passes", "settings", "names"),
    [
        ("lower-nn", {"ukernels": False}, ""),
        ("lower-nn", {"winograd": False, "tune": True, "unroll_dispatch": 2}, ""),
        ("tile{sizes=[2,16]}", {"ukernels": False}, ""),
        ("tile{sizes=[2,16]}", {"winograd": False}, "winograd"),
        ("tile{sizes=[2,16]}", {"tune": True, "unroll_dispatch": 2}, "tune"),
        ("outline-ukernels", {"ukernels": False, "unroll_dispatch": 2}, "ukernels"),
        ("vectorize", {"unroll_dispatch": 2}, ""),
        ("vectorize", {"ukernels": False}, "ukernels"),
        ("lower-vm", {"unroll_dispatch": 2, "tune": True}, "unroll_dispatch, tune"),
    ],
    ids=str,
)
def test_settings_that_come_too_late(passes: str, settings: dict[str, object], names: str) -> None:
    module = mdsl.opt(TEXT, passes)
    if names:
        with pytest.raises(
            mdsl.MdslError, match=f"^error: {names} cannot be chosen any more: the program is on the "
        ):
            mdsl.compile(module, **settings)  # type: ignore[arg-type]
    else:
        usual = mdsl.compile(module).bytecode().provenance["pipeline"]
        assert mdsl.compile(module, **settings).bytecode().provenance["pipeline"] != usual  # type: ignore[arg-type]


def test_settings_hold_before_the_passes_of_a_pipeline() -> None:
    """Those that a pass needs before it are the standard ones as the settings have them."""
    for winograd in (True, False):
        program = mdsl.compile(TEXT, winograd=winograd, pipeline="tile")
        assert ("winograd" in program.bytecode().provenance["pipeline"].split(",")) == winograd


def test_import_is_light() -> None:
    code = "import sys, mdsl; print([m for m in ('numpy', 'llvmlite', 'lark') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )


def test_loading_imports_nothing_that_compiles(tmp_path: Path) -> None:
    program = mdsl.compile(TEXT)
    program.save(tmp_path / "net.mbc")
    mdsl.load(tmp_path / "net.mbc")
    code = (
        "import sys, mdsl, numpy as np; program = mdsl.load(sys.argv[1])\n"
        "program(np.zeros((4, 8), np.float32), np.zeros((8, 16), np.float32))\n"
        "heavy = ('lark', 'typer', 'rich', 'onnx', 'mdsl.passes.base', 'mdsl.dialects', 'mdsl.syntax.parser',\n"
        "  'mdsl.bytecode.isa', 'mdsl.vm.handlers', 'llvmlite.ir', 'ml_dtypes')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.mbc")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
