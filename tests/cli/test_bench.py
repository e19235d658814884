"""`mdsl bench`: profile, ablation, and comparison with other runtimes, absent and present ones."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mdsl.benchmarking import peers, versus
from mdsl.benchmarking.peers import mdsl as own_peer
from mdsl.benchmarking.peers.worker import Ready, Task
from mdsl.benchmarking.versus import Contender, adapters, compare, difference
from mdsl.cli import app, benchmarks
from mdsl.errors import MdslError

EXAMPLES = Path(__file__).parents[2] / "examples"
CNN = EXAMPLES / "mnist" / "cnn.mir"
UNGUARDED = True  # it compares times

needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="the package onnx is not installed")


def bench(*args: object) -> Result:
    result = CliRunner().invoke(app, ["bench", *map(str, args)])
    assert result.exit_code == 0, result.exception
    return result


@pytest.fixture
def model(tmp_path: Path) -> str:
    """y = relu(x * w + b), x with an open batch."""
    helper = pytest.importorskip("onnx").helper
    from onnx import TensorProto, numpy_helper

    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((8, 4), np.float32), "b": random.standard_normal(4, np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Add", ["p", "b"], ["s"]),
            helper.make_node("Relu", ["s"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "small.onnx"
    path.write_bytes(proto.SerializeToString())
    return str(path)


# Profile --------------------------------------------------------------------------------------------------


@cache
def profile(*args: object) -> dict:
    return json.loads(bench(*args, "--profile", "--runs=20", "--json=-").stdout)["profile"]


def test_profile_names_the_layers_of_the_source() -> None:
    layers = profile(CNN)["layers"]
    assert [layer["name"] for layer in layers][:3] == ["normalised", "conv1", "pool1"]
    conv = next(layer for layer in layers if layer["name"] == "conv2")
    assert conv["shape"] == "1x16x14x14 * 32x16x3x3"


def test_profile_counts_work_and_constants() -> None:
    layers = profile(CNN, "--no-winograd")["layers"]
    conv = next(layer for layer in layers if layer["name"] == "conv2")
    multiplications = 32 * 14 * 14 * 16 * 9
    assert 2 * multiplications <= conv["flops"] <= 2.1 * multiplications
    assert conv["constants"] == 4 * (32 * 16 * 9 + 32)
    assert all(layer["seconds"] >= 0 and layer["limit"] >= 0 for layer in layers)


def test_profile_tells_dispatches_of_one_kernel_apart(tmp_path: Path) -> None:
    """Two layers of one shape share a micro-kernel; each has a row of its own."""
    text = [
        "func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {",
        "  %w = arith.constant dense<0.5> : tensor<64x64xf32>",
    ]
    for source, result in ("xy", "yz"):
        text.append(
            f"  %{result} = nn.matmul %{source}, %w : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>"
        )
    path = tmp_path / "twice.mir"
    path.write_text("\n".join([*text, "  return %z : tensor<64x64xf32>", "}"]))
    matmuls = [layer for layer in profile(path)["layers"] if layer["kernel"].startswith("matmul")]
    assert [layer["name"] for layer in matmuls] == ["y", "z"]
    assert matmuls[0]["calls"] == matmuls[1]["calls"] and matmuls[0]["flops"] == 2 * 64**3


def test_profile_counts_constants_that_kernels_of_a_layer_share_out(tmp_path: Path) -> None:
    """37 blocks of 16 columns: no tile of several blocks divides them, so that two kernels have weights each."""
    matrix, out = "tensor<64x592xf32>", "tensor<1x592xf32>"
    path = tmp_path / "columns.mir"
    path.write_text(
        f"""func.func @main(%x: tensor<1x64xf32>) -> {out} {{
  %w = arith.constant dense<0.5> : {matrix}
  %y = nn.matmul %x, %w : (tensor<1x64xf32>, {matrix}) -> {out}
  return %y : {out}
}}"""
    )
    (layer,) = (found for found in profile(path)["layers"] if "matmul" in found["kernel"])
    assert layer["constants"] == 4 * 64 * 592


def test_profile_adds_up_to_a_call() -> None:
    """Loosely, for the machine may be busy: the parts are no fraction and no multiple of the whole."""
    found = profile(CNN)
    parts = sum(layer["seconds"] for layer in found["layers"]) + found["between"]
    assert 0.5 < parts / found["call"]["median"] < 1.5


def test_profile_prints_a_table() -> None:
    text = bench(CNN, "--profile", "--runs=5", "--threads=2", "--unroll-dispatch=4").stdout
    assert "conv2" in text and "(between dispatches)" in text and "roofline" in text


def test_profile_of_bytecode_names_places(tmp_path: Path) -> None:
    path = tmp_path / "cnn.mbc"
    assert CliRunner().invoke(app, ["compile", str(CNN), "-o", str(path)]).exit_code == 0
    assert any("cnn.mir:" in layer["name"] for layer in profile(path)["layers"])


# Ablation -------------------------------------------------------------------------------------------------


@cache
def ablation(*options: str) -> list[dict]:
    return json.loads(bench(CNN, *options, "--ablation", "--runs=1", "--json=-").stdout)["rows"]


def test_ablation_counts_instructions_and_dispatches() -> None:
    rows = ablation()
    names = ["interpreted", "+ micro-kernels", *(f"+ unroll-dispatch={n}" for n in (2, 4, 8)), "jit"]
    assert [row["name"] for row in rows] == names
    interpreted, single, *_, by_eight, jit = rows
    assert interpreted["kernel_calls"] == interpreted["dispatches"] == 0
    assert interpreted["instructions"] > 1000 * single["instructions"] > 0
    assert single["dispatches"] == single["kernel_calls"] > by_eight["dispatches"] > 0
    assert jit["instructions"] is None


NETWORK = """func.func @main(%image: tensor<1x3x8x8xf32>) -> tensor<1x5xf32> {
  %w = arith.constant dense<0.1> : tensor<8x3x3x3xf32>
  %one = arith.constant dense<1.0> : tensor<8xf32>
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %c = nn.conv2d %image, %w {pads = [1, 1, 1, 1]} : (tensor<1x3x8x8xf32>, tensor<8x3x3x3xf32>) -> tensor<1x8x8x8xf32>
  %n = nn.batch_norm %c, %one, %zero, %zero, %one : (tensor<1x8x8x8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x8x8xf32>
  %r = nn.relu %n : (tensor<1x8x8x8xf32>) -> tensor<1x8x8x8xf32>
  %p = nn.max_pool2d %r {kernel = [2, 2], strides = [2, 2]} : (tensor<1x8x8x8xf32>) -> tensor<1x8x4x4xf32>
  %f = nn.flatten %p : (tensor<1x8x4x4xf32>) -> tensor<1x128xf32>
  %fc = arith.constant dense<0.1> : tensor<5x128xf32>
  %y = nn.linear %f, %fc : (tensor<1x128xf32>, tensor<5x128xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd={momentum=0.9,nesterov=true}"])
def test_ablation_of_a_training_step(optimizer: str, tmp_path: Path) -> None:
    """Of the program that `mdsl train` makes: forwards, backwards and the update in place."""
    (tmp_path / "net.mir").write_text(NETWORK)
    step = tmp_path / "step.mir"
    passes = [
        "--rebatch=4",
        "--parameters",
        "--loss=cross_entropy",
        "--train-mode",
        "--autodiff",
        f"--{optimizer}",
    ]
    assert (
        CliRunner().invoke(app, ["opt", *passes, str(tmp_path / "net.mir"), "-o", str(step)]).exit_code == 0
    )
    rows = json.loads(bench(step, "--ablation", "--runs=3", "--json=-").stdout)["rows"]
    interpreted, single, *unrolled, jit = rows
    assert len(unrolled) == 3 and interpreted["kernel_calls"] == 0 == interpreted["dispatches"]
    assert interpreted["instructions"] > 20 * single["instructions"] > 0
    assert all(
        row["kernel_calls"] == single["kernel_calls"] == single["dispatches"] for row in (*unrolled, jit)
    )
    assert single["dispatches"] > unrolled[0]["dispatches"] >= unrolled[2]["dispatches"] > 0


@pytest.mark.slow
def test_ablation_by_pass_leaves_each_out_or_says_why_not() -> None:
    rows = {
        r["name"]: r
        for r in json.loads(bench(CNN, "--ablation=passes", "--runs=3", "--json=-").stdout)["without"]
    }
    assert {"fold-batchnorm", "pack", "fuse", "winograd", "tile", "lower-vm"} <= rows.keys()
    assert all((row["seconds"] is None) == bool(row["why"]) for row in rows.values())
    assert rows["fuse"]["seconds"] > 0 and rows["tile"]["seconds"] is None


def test_ablation_has_the_settings() -> None:
    """Every row: Winograd's transforms are micro-kernels of their own, and loops of the pipeline's tiles are more."""
    options = ("--no-winograd", "--pass-pipeline=tile{sizes=[1,16]}")
    alone = [
        json.loads(bench(CNN, *options, *more, "--runs=1", "--json=-").stdout)
        for more in ([], ["--no-ukernels"])
    ]
    rows, usual = ablation(*options), ablation()
    for row, other, found in zip([rows[1], rows[0]], [usual[1], usual[0]], alone, strict=True):
        assert row["instructions"] == found["profile"]["instructions"] != other["instructions"], row["name"]


def test_json_goes_to_a_file_beside_the_table(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert "median of" in bench(CNN, "--runs=5", "--json", path).stdout
    assert json.loads(path.read_text())["timing"]["runs"] == 5


def test_the_table_is_printed_though_the_json_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(benchmarks, "write_json", failing)
    result = CliRunner().invoke(
        app, ["bench", str(CNN), "--runs=5", "--json", str(tmp_path / "figures.json")]
    )
    assert "median of" in result.stdout and isinstance(result.exception, OSError)


# Other runtimes -------------------------------------------------------------------------------------------
# The adapters below stand for runtimes: mdsl itself under other names, with faults.


ADAPTER = """
from mdsl.benchmarking.peers import Prepared, Refused, mdsl
import os
import threading

def prepare(model, inputs, threads):
    own = mdsl.prepare(model, inputs, 1, {})
    FAULT
    return Prepared(own.call, lambda found: [FACTOR * y for y in own.arrays(found)], "1.0", "fake")
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Runtimes that agree, disagree, are absent, refuse the model, fail and die: while they load it or later, before
    they are told to do anything (the others are still loading it)."""
    faults = {
        "dies idle": ("threading.Timer(0.3, os._exit, [4]).start()", "1"),
        "agrees": ("", "1"),
        "disagrees": ("", "1.01"),
        "absent": ("import no_such_runtime", "1"),
        "refuses": ("raise Refused('no op Foo')", "1"),
        "fails": ("raise RuntimeError('out of order')", "1"),
        "dies": ("os._exit(3)", "1"),
    }
    for name, (fault, factor) in faults.items():
        text = ADAPTER.replace("FAULT", fault).replace("FACTOR", factor)
        (tmp_path / f"fake_{name.replace(' ', '_')}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {name: f"fake_{name.replace(' ', '_')}" for name in faults}


@pytest.fixture
def fatal_pipes() -> Iterator[None]:
    """SIGPIPE as the commands set it: a write to a broken pipe ends the process."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGPIPE, before)


@needs_onnx
@pytest.mark.usefixtures("fatal_pipes")
def test_compare_tells_what_each_runtime_did(executes: None, model: str, fakes: dict[str, str]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 8), np.float32)
    own, *others = compare(model, [x], fakes, threads=1, rounds=2, settings={})
    found = {c.name: c for c in others}
    assert own.name == "mdsl" and own.calls >= 2 and 0 < own.low <= own.median <= own.high
    assert found["agrees"].error == 0 and found["agrees"].agrees and found["agrees"].ratio is not None
    assert not found["disagrees"].agrees and found["disagrees"].error == pytest.approx(0.01, rel=1e-3)
    assert "no_such_runtime" in found["absent"].failed
    assert found["refuses"].failed == "no op Foo"
    assert found["fails"].failed == "RuntimeError: out of order"
    assert "exit code 3" in found["dies"].failed
    assert "exit code 4" in found["dies idle"].failed


@needs_onnx
def test_a_model_with_open_sizes_is_compiled_for_those_of_the_inputs(model: str) -> None:
    """As the file that the peers get: a call finds its program and its outputs' memory ready."""
    x = np.random.default_rng(1).standard_normal((2, 8), np.float32)
    prepared = own_peer.prepare(model, {"x": x}, 1, {})
    (first,), (second,) = prepared.call(), prepared.call()
    assert first is second and first.shape == (2, 4)


@needs_onnx
def test_vs_without_the_runtime_is_a_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "no-such-adapter", "apache-tvm")
    text = bench(model, "--vs=no-such-adapter", "--rounds=1", "--bind=batch=2").stdout
    assert "no-such-adapter" in text and "No module named" in text


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*peers.PEERS, *(f"bench.peers.{p}" for p in ("torch", "torch_eager", "tensorflow", "jax"))]
)
def test_each_installed_peer_agrees(model: str, name: str) -> None:
    x = np.random.default_rng(1).standard_normal((2, 8), np.float32)
    _, other = compare(model, [x], adapters(name), threads=1, rounds=1, settings={})
    if "not installed" in other.failed or "No module named" in other.failed:
        pytest.skip(other.failed)
    assert not other.failed and other.agrees and other.calls >= 1


def test_vs_needs_a_file_that_others_read() -> None:
    result = CliRunner().invoke(app, ["bench", str(CNN), "--vs=onnxruntime"])
    assert isinstance(result.exception, MdslError) and "need the model as an .onnx file" in str(
        result.exception
    )


def test_vs_names_the_peers_that_there_are() -> None:
    with pytest.raises(MdslError, match=r"no peer 'onnxrun'.*\(peers: onnxruntime, openvino"):
        adapters("openvino,onnxrun")
    assert list(adapters("all")) == list(peers.PEERS)
    assert list(adapters("tvm, openvino,tvm")) == ["tvm", "openvino"]


@needs_onnx
def test_vs_takes_an_adapter_by_its_module_below_the_current_folder(
    executes: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command need not find the folder on its path."""
    (tmp_path / "plugged").mkdir()
    text = ADAPTER.replace("FAULT", "").replace("FACTOR", "1")
    (tmp_path / "plugged" / "adapter.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    text = bench(model, "--vs=plugged.adapter", "--rounds=1", "--bind=batch=2").stdout
    assert "plugged.adapter" in text and "fake" in text and "DISAGREE" not in text
    for missing in ("plugged.adopter", "no_such.adapter", ".adapter", "a..b"):
        with pytest.raises(MdslError, match="no module"):
            adapters(missing)


def test_difference_is_relative_to_the_scale() -> None:
    wanted = [np.array([100.0, 1.0, np.nan, np.inf])]
    assert difference([np.array([100.0, 2.0, np.nan, np.inf])], wanted) == pytest.approx(0.01)
    assert difference([np.array([100.0, 1.0, 0.0, np.inf])], wanted) == np.inf
    assert difference([np.zeros((2, 2))], wanted) == np.inf
    assert difference([np.zeros(3)], [np.zeros(3)]) == 0


def test_a_contender_that_was_not_compared_does_not_disagree() -> None:
    assert Contender("mdsl").agrees
    assert not Contender("other", error=1e-3).agrees


def test_a_process_starts_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries read it when they load; afterwards it is as it was."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    with versus._environment(peers.environment(2)):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("2", "2")
    assert dict(os.environ) == before


def test_outputs_of_16_bits_are_held_to_less() -> None:
    for dtype, agrees in ((np.float32, False), (np.float16, True)):
        runtimes = [versus._Runtime(Task(n, "", "", {}, 1, "", None)) for n in ("mdsl", "other")]
        for runtime, value in zip(runtimes, (1.0, 1.01), strict=True):
            runtime.ready, runtime.rounds = Ready("1", "", [np.full(1, value, dtype)], 0, 0), [[1.0]]
        assert runtimes[1].result(runtimes[0]).agrees is agrees


def test_rounds_that_disagree_are_told() -> None:
    """The ratios of a busy machine: half of the rounds are between the quartiles."""
    ready = Ready("1", "", [np.zeros(1)], 0, 0)
    own, steady, wild = (
        versus._Runtime(Task(n, "", "", {}, 1, "", None)) for n in ("mdsl", "steady", "wild")
    )
    for runtime, rounds in ((own, [1, 1, 1, 1, 1]), (steady, [2, 2.1, 2, 2.2, 9]), (wild, [1, 2, 3, 4, 5])):
        runtime.ready, runtime.rounds = ready, [[seconds] * 3 for seconds in rounds]
    found = steady.result(own)
    assert (found.ratio, found.ratios, found.unsteady) == (2.1, (2.0, 2.2), False)
    found = wild.result(own)
    assert (found.ratio, found.ratios, found.unsteady) == (3, (2, 4), True)
    assert benchmarks._contender_cells(found)[-1].startswith("ratio UNSTEADY, 2.00 to 4.00 over rounds")


def test_regret_compares_the_models_tiles_with_the_fastest(tmp_path: Path) -> None:
    path = tmp_path / "regret.json"
    shown = bench(CNN, "--regret", "--json", path).stdout
    found = json.loads(path.read_text())
    tilings = found["regret"]["tilings"]
    assert any(tiling["shape"] == "1x1568 * 4x1568x16" for tiling in tilings) or len(tilings) == 4
    assert all(0 < tiling["least"] <= tiling["seconds"] for tiling in tilings)
    assert found["share"] >= 0
    assert "given away" in shown and "more than the fastest" in shown
