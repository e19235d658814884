"""`mdsl bench --vs`: comparison with other runtimes, absent and present ones."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mdsl.benchmarking import peers, versus
from mdsl.benchmarking.peers import mdsl as own_peer
from mdsl.benchmarking.peers.worker import Ready, Task
from mdsl.benchmarking.versus import Contender, adapters, compare, difference
from mdsl.cli import app, benchmarks
from mdsl.errors import MdslError
from tests.cli.benching import bench

CNN = Path(__file__).parents[2] / "examples" / "mnist" / "cnn.mir"
UNGUARDED = True  # it compares times


needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="the package onnx is not installed")


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
