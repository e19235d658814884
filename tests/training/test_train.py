"""`mdsl train`: runs, is killed and resumed, on .mir and .onnx, and says what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_trainer import DROPOUT, MLP, samples

from mdsl.cli import command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.mir").write_text(DROPOUT)
    np.savez(tmp_path / "train.npz", **samples(DROPOUT))
    np.savez(tmp_path / "valid.npz", **samples(DROPOUT, 50))
    return tmp_path


COMMON = ["train", "net.mir", "--data=train.npz", "--batch=16", "--lr=0.01", "--checkpoint-every=20"]


def test_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = [] if _lacks_matplotlib() else ["--plot=loss.svg"]
    assert (
        command([*COMMON, "--steps=60", "--valid=valid.npz", "-o", "trained.mir", "--schedule=cosine", *plot])
        == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"^step 60/60  loss \d\.\d{4}  accuracy \d+\.\d %  \d+\.\d steps/s$", out, re.MULTILINE)
    assert (
        len(re.findall(r"^held out: step \d+  loss \d\.\d{4}  accuracy \d+\.\d\d %$", out, re.MULTILINE)) == 3
    )
    assert not plot or (place / "loss.svg").read_text().startswith("<?xml")
    assert command(["run", "trained.mir", "--input", "x=1x20xf32=random"]) == 0
    assert set(load_file(place / "trained.safetensors")) == {
        "fc1_weight",
        "fc1_bias",
        "fc2_weight",
        "fc2_bias",
    }


def _lacks_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return True
    return False


def test_a_killed_run_resumes_to_the_bit(place: Path) -> None:
    """Killed at once, and stopped by Ctrl-C: the weights at the end are those of a run that nobody disturbed."""
    assert command([*COMMON, "--steps=3000", "-o", "whole.safetensors"]) == 0
    again = [sys.executable, "-m", "mdsl", *COMMON, "--steps=3000", "-o", "parts.safetensors", "--resume"]
    file = place / "parts.safetensors"
    for number in (signal.SIGKILL, signal.SIGINT):
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = subprocess.Popen(
            again,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        until = time.monotonic() + 60
        while (
            process.poll() is None
            and not (file.exists() and file.stat().st_mtime_ns > before)
            and time.monotonic() < until
        ):
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate()[0].decode()
        assert process.returncode in (-signal.SIGKILL, 130, 0), said
        if process.returncode == 130:
            assert "go on with --resume" in said
    assert command([*COMMON, "--steps=3000", "-o", "parts.safetensors", "--resume"]) == 0
    whole, parts = load_file(place / "whole.safetensors"), load_file(file)
    assert set(whole) == set(parts)
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)


def test_an_onnx_model(place: Path) -> None:
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    weights = {
        "0.weight": (32, 20),
        "0.bias": (32,),
        "/3/W:0": (5, 32),
        "/3/b:0": (5,),
    }  # no text has such names
    tensors = [
        onnx.numpy_helper.from_array((0.1 * random.standard_normal(s)).astype(np.float32), n)
        for n, s in weights.items()
    ]
    nodes = [
        onnx.helper.make_node("Gemm", ["x", *list(weights)[:2]], ["a"], transB=1),
        onnx.helper.make_node("Relu", ["a"], ["h"]),
        onnx.helper.make_node("Dropout", ["h"], ["d"]),
        onnx.helper.make_node("Gemm", ["d", *list(weights)[2:]], ["z"], transB=1),
        onnx.helper.make_node("Softmax", ["z"], ["y"], axis=1),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, ["batch", 20])], [value("y", 1, ["batch", 5])], tensors
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), place / "net.onnx"
    )
    arguments = [
        "train",
        "net.onnx",
        "--data=train.npz",
        "--steps=40",
        "--batch=16",
        "--optimizer=sgd{momentum=0.9}",
        "-o",
        "t.safetensors",
    ]
    assert command(arguments) == 0
    trained = load_file(place / "t.safetensors")
    assert {*weights, *(f"{name}_momentum" for name in weights)} <= set(trained)
    assert not np.array_equal(trained["0.weight"], onnx.numpy_helper.to_array(tensors[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=0"], "error: --steps, --checkpoint-every and --valid-every must be at least 1"),
        (["--lr=nan"], "error: the learning rate must be a finite number from 0 on, got nan"),
        (["--schedule=fast"], "error: unknown schedule 'fast'"),
        (["-o", "x.npz"], "x.npz: error: expected a .safetensors file, or .mir"),
        (["-o", "net.safetensors"], "net.safetensors: error: these are the weights of net.mir"),
        (["--plot=x.txt"], "x.txt: error: a plot is a .svg, .png or .pdf file"),
        (["--valid=none.npz"], "none.npz: error: No such file or directory"),
        (["--data=net.mir"], "net.mir: error: not a readable .npz file"),
    ],
)
def test_wrong_arguments(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([*COMMON, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_plain_network_has_the_same_weights_by_name(place: Path) -> None:
    (place / "net.mir").write_text(MLP)
    assert command([*COMMON, "--steps=2", "--freeze=fc2_bias", "-o", "t.safetensors"]) == 0
    assert not load_file(place / "t.safetensors")["fc2_bias"].any()


def test_the_python_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "training.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(root / "examples")
    (prepare,) = re.findall(r'^python -c "(.*)"$', page, re.MULTILINE)
    for text in (prepare, *re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)):
        exec(compile(text, "training.md", "exec"), {})


def test_data_that_are_cut_off_or_have_no_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (place / "train.npz").read_bytes()
    for end in (-40, len(whole) // 2, 10, 0):
        (place / "cut.npz").write_bytes(whole[:end])
        assert command(["train", "net.mir", "--data=cut.npz"]) == 1, end
        assert capsys.readouterr().err.startswith("cut.npz: error: not a readable .npz file: "), end
    np.save(place / "one.npy", np.zeros(3, np.float32))
    assert command(["train", "net.mir", "--data=one.npy"]) == 1
    assert capsys.readouterr().err.startswith("one.npy: error: not a readable .npz file: it holds one array")
