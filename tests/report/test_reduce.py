"""`mdsl reduce` shrinks programs and models as long as a script finds them interesting."""

from __future__ import annotations

import os
import select
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from mdsl.ir.verifier import verify
from mdsl.report.reduce import Reducer
from mdsl.syntax.parser import parse

ROOT = Path(__file__).parents[2]
CNN = ROOT / "examples" / "mnist" / "cnn.mir"
Shell = Callable[[str], Path]


def test_what_is_interesting_is_left(mdsl: Callable[..., Any], script: Shell, tmp_path: Path) -> None:
    test = script('grep -q nn.max_pool2d "$1" && grep -q nn.relu "$1"')
    ran = mdsl("reduce", CNN, f"--test={test}")
    assert ran.code == 0 and ran.stderr == "note: 4 of 35 ops are left: cnn.reduced.mir\n"
    text = (tmp_path / "cnn.reduced.mir").read_text()
    assert [line.split(" ")[4] for line in text.splitlines() if " = " in line] == ["nn.relu", "nn.max_pool2d"]
    assert "tensor<1x1x2x2xf32>" in text  # the images have shrunk to what the kernel needs
    verify(parse(text))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cnn.reduced.mir", "script.sh"]


def test_weights_that_matter_stay_beside_the_program(
    mdsl: Callable[..., Any], script: Shell, tmp_path: Path
) -> None:
    test = script('grep -q "dense_resource<conv2_weight>" "$1" && test -s "${1%.mir}.safetensors"')
    assert mdsl("reduce", CNN, f"--test={test}", "-o", "small.mir").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["script.sh", "small.mir", "small.safetensors"]
    assert mdsl("opt", "small.mir").stdout.count("arith.constant") == 1
    assert (tmp_path / "small.safetensors").stat().st_size < CNN.with_suffix(
        ".safetensors"
    ).stat().st_size / 2


@pytest.mark.slow
def test_a_failure_of_a_command_is_reduced(mdsl: Callable[..., Any], script: Shell, tmp_path: Path) -> None:
    (tmp_path / "net.mir").write_text(
        """func.func @unused(%x: tensor<4xf32>) -> tensor<4xf32> {
  func.return %x : tensor<4xf32>
}
func.func @main(%x: tensor<?x8xf32>, %n: tensor<8xf32>) -> (tensor<?x8xf32>, tensor<8xf32>) {
  %a = nn.relu %x : (tensor<?x8xf32>) -> tensor<?x8xf32>
  %b = nn.add %a, %x : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %c = nn.exp %n : (tensor<8xf32>) -> tensor<8xf32>
  %d = nn.add %c, %c : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %b, %d : tensor<?x8xf32>, tensor<8xf32>
}
"""
    )
    python = shlex.quote(sys.executable)
    test = script(
        f'cd {shlex.quote(str(ROOT))}; {python} -m mdsl opt --lower-nn "$1" 2>&1 | grep -q "dimension of unknown size"'
    )
    assert mdsl("reduce", "net.mir", f"--test={test}").code == 0
    text = (tmp_path / "net.reduced.mir").read_text()
    ops = [line for line in text.splitlines() if "nn." in line]
    assert len(ops) == 1 and "tensor<?x" in ops[0] and "@unused" not in text


def test_ops_in_loops_and_kernels_are_left_out_too(
    mdsl: Callable[..., Any], script: Shell, tmp_path: Path
) -> None:
    assert mdsl("opt", "--vectorize", ROOT / "examples" / "matmul.mir", "-o", "vectors.mir").code == 0
    whole = len((tmp_path / "vectors.mir").read_text().splitlines())
    assert mdsl("reduce", "vectors.mir", f"--test={script('grep -q vector.fma $1')}").code == 0
    text = (tmp_path / "vectors.reduced.mir").read_text()
    verify(parse(text))
    assert "vector.fma" in text and len(text.splitlines()) < whole / 3


MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] z, float[1, 3, 8, 8] w) <float[4, 3, 1, 1] k = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
  y = Conv (x, k)
  r = Relu (y)
  z = LeakyRelu <alpha = 0.2> (r)
  w = Exp (x)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def test_a_model_stays_a_model(mdsl: Callable[..., Any], script: Shell, model: Path, tmp_path: Path) -> None:
    ran = mdsl(
        "reduce", model, f"--test={script('case $1 in *.onnx) grep -q LeakyRelu $1;; *) exit 1;; esac')}"
    )
    assert ran.code == 0 and "1 of 4 nodes are left: net.reduced.onnx" in ran.stderr
    found = onnx.load(tmp_path / "net.reduced.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == ["LeakyRelu"]
    assert not found.graph.node[0].attribute and not found.graph.initializer
    assert [i.name for i in found.graph.input] == ["r"] and [o.name for o in found.graph.output] == ["z"]


def test_nothing_is_tested_twice() -> None:
    tested: list[tuple[int, ...]] = []

    def is_interesting(candidate: tuple[int, ...]) -> bool:
        tested.append(candidate)
        return {3, 17} <= set(candidate)

    def without(old: tuple[int, ...], part: range) -> tuple[int, ...]:
        return old[: part.start] + old[part.stop :]

    reducer = Reducer(tuple(range(20)), is_interesting, lambda smaller: None, bytes)
    assert reducer.reduce([(len, [without, without])]) == (3, 17)
    assert len(set(tested)) == len(tested)


def test_a_model_is_reduced_as_a_program_if_that_is_asked_for(
    mdsl: Callable[..., Any], script: Shell, model: Path, tmp_path: Path
) -> None:
    assert mdsl("reduce", model, f"--test={script('grep -q nn.exp $1')}", "-o", "small.mir").code == 0
    assert "nn.conv2d" not in (tmp_path / "small.mir").read_text()


def test_what_is_not_interesting_is_not_reduced(
    mdsl: Callable[..., Any], script: Shell, model: Path, tmp_path: Path
) -> None:
    ran = mdsl("reduce", CNN, f"--test={script('exit 1')}")
    assert ran.code == 1 and "does not find the program interesting" in ran.stderr
    ran = mdsl("reduce", model, f"--test={script('exit 1')}")
    assert ran.code == 1 and "does not find the model interesting" in ran.stderr
    ran = mdsl("reduce", CNN, f"--test={script('sleep 10')}", "--timeout=0.1")
    assert ran.code == 1 and "does not find the program interesting" in ran.stderr
    assert "note: 1 test was ended after 0.1 s (--timeout)\n" in ran.stderr
    assert not list(tmp_path.glob("*reduced*"))
    ran = mdsl("reduce", CNN, "--test=true", "-o", CNN)
    assert ran.code == 1 and "the output is the input file" in ran.stderr


def test_what_a_test_has_started_ends_with_it(
    mdsl: Callable[..., Any], script: Shell, tmp_path: Path
) -> None:
    """A script is a shell, and what takes long a child of it."""
    os.mkfifo(tmp_path / "held")
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    started = script(f"sleep 50 > {tmp_path}/held &\nwait")
    assert mdsl("reduce", CNN, f"--test={started}", "--timeout=0.5").code == 1
    assert select.select([reader], [], [], 5)[0], "its child holds the pipe still"
    os.close(reader)


def test_a_file_that_is_no_model_is_an_error(mdsl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\\xff\\xff not a model")
    ran = mdsl("reduce", "bad.onnx", "--test=true")
    assert ran.code == 1 and "bad.onnx: error: not a readable ONNX model" in ran.stderr
