"""Remarks of passes: what they tell, chosen and written in each form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.cli import command

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    *(ROOT / "examples" / "mnist" / name for name in ("mlp.mir", "cnn.mir")),
    *(ROOT / "examples" / "passes" / f"{name}.mir" for name in ("fuse-attention", "fuse-rows", "widen")),
]

NET = """
func.func @main(%x: tensor<1x16x28x28xf32>, %w: tensor<16x16x3x3xf32>, %y: tensor<1x16x28x28xf32>) -> (tensor<1x16x28x28xf32>, tensor<1x16x28x28xf32>) {
  %conv = nn.conv2d %x, %w {dilations = [2, 2], pads = [2, 2, 2, 2]} : (tensor<1x16x28x28xf32>, tensor<16x16x3x3xf32>) -> tensor<1x16x28x28xf32>
  %relu = nn.relu %conv : (tensor<1x16x28x28xf32>) -> tensor<1x16x28x28xf32>
  %sum = nn.add %conv, %y : (tensor<1x16x28x28xf32>, tensor<1x16x28x28xf32>) -> tensor<1x16x28x28xf32>
  return %relu, %sum : tensor<1x16x28x28xf32>, tensor<1x16x28x28xf32>
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.mir"
    path.write_text(NET.lstrip())
    return path


def test_applied_remarks_name_the_place_the_pass_and_the_candidates(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["opt", "--tile", "--remarks=^tile$", "--target=avx2", str(net)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "remark:" in line]
    assert all("[tile]" in line and line.startswith(f"{net}:") for line in lines)
    (chosen,) = [line for line in lines if "the cheapest" in line]
    assert chosen.startswith(f"{net}:2:")
    tiles = re.findall(r"(\d+(?:x\d+)+): ([\d.]+)", chosen[chosen.index("(") :])
    cycles = [float(number) for _, number in tiles]
    assert len(tiles) > 1 and cycles == sorted(cycles)
    assert f"tiles of {tiles[0][0]}:" in chosen


def test_missed_remarks_say_what_is_in_the_way(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["opt", "--winograd", "--fuse", "--remarks-missed", str(net)]) == 0
    err = capsys.readouterr().err
    assert re.search(r"missed: \[fuse\] .* is not the epilogue of .*: that is also read elsewhere", err)
    assert re.search(r"\[winograd\] .*its window is 3x3 with strides 1x1 and dilations 2x2", err)
    assert "remark:" not in err


def test_a_pass_that_changed_nothing_says_why(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["opt", "--fold-batchnorm", "--winograd", str(net)]) == 0
    err = capsys.readouterr().err
    assert "pass 'fold-batchnorm' changed nothing: there is no nn.batch_norm" in err
    assert re.search(r"pass 'winograd' changed nothing: %\w+ is no convolution for Winograd's method", err)


def test_json_has_the_facts(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "remarks.json"
    arguments = [
        "opt",
        "--tile",
        "--remarks=tile",
        "--remarks-format=json",
        f"--remarks-output={out}",
        str(net),
    ]
    assert command([*arguments, "-o", str(tmp_path / "o.mir")]) == 0
    found = json.loads(out.read_text())
    assert {r["kind"] for r in found} == {"applied"} and {r["pass"] for r in found} == {"tile"}
    assert any(r["facts"].get("tiles", [{}])[0].get("cycles", 0) > 0 for r in found)
    assert {r["line"] for r in found} <= {1, 2, 3, 4, 5}


def test_yaml_is_what_llvm_writes(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["opt", "--outline-ukernels", "--remarks", "--remarks-format=yaml", str(net)]) == 0
    err = capsys.readouterr().err
    documents = err[err.index("--- !") :].split("...\n")[:-1]
    assert documents
    for document in documents:
        keys = re.findall(r"^(\w+):", document, re.MULTILINE)
        assert keys == ["Pass", "Name", "DebugLoc", "Function", "Args"], document


def test_lowerings_tell_what_became_of_each_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads, passes = (
        ROOT / "tests" / "passes" / "fold-shapes" / "heads.mir",
        "fold-shapes|lower-nn|bufferize|lower-vm",
    )
    options = ["--target=avx2", f"--remarks=^({passes})$", "-o", str(tmp_path / "o.mir")]
    assert command(["opt", "--lower-vm", *options, str(heads)]) == 0
    told = capsys.readouterr().err
    for expected in (
        "[lower-nn] %scores becomes linalg.fill, linalg.generic\n",
        "[fold-shapes] %scores reads its operand as that lies, by a map that transposes\n",
        "[bufferize] %positive has memory of its own: memref<16x24xf32>\n",
        "[bufferize] %scores_packed_init is computed in %scores, into which it was copied\n",
        "[lower-vm] scf.forall in @main hands the trips of %i out to the workers\n",
    ):
        assert expected in told
    assert re.search(r"\[lower-vm\] @main has \d+ ops, \d+ loops of which 2 are shared among workers, ", told)


def test_a_broken_expression_is_a_users_error(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["opt", "--tile", "--remarks=(", str(net)]) == 1
    assert "error: --remarks:" in capsys.readouterr().err


def test_remarks_of_passes_that_fail_are_written(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was told until then helps to find out why."""
    arguments = ["opt", "--pack", "--tile=0x0x0x0x0x0x0", "--remarks=pack", str(net)]
    command(arguments)
    assert "[pack]" in capsys.readouterr().err


def test_remarks_do_not_take_the_place_of_the_program(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = net.read_text()
    assert command(["opt", "--tile", "--remarks", f"--remarks-output={net}", str(net)]) == 1
    assert "error: the output is the input file" in capsys.readouterr().err
    assert net.read_text() == before


def test_a_remark_is_one_line(tmp_path: Path) -> None:
    """Whatever the place is called that it speaks of."""
    net, out = tmp_path / "net.mir", tmp_path / "remarks.txt"
    net.write_text(
        "func.func @main(%a: tensor<4x8xf32>, %b: tensor<8x4xf32>) -> tensor<4x4xf32> {\n"
        '  %0 = nn.matmul %a, %b : (tensor<4x8xf32>, tensor<8x4xf32>) -> tensor<4x4xf32> loc("x\\1B[31m\\0Aerror: y")\n'
        "  return %0 : tensor<4x4xf32>\n}\n"
    )
    assert command(["opt", "--tile", "--remarks", f"--remarks-output={out}", str(net)]) == 0
    assert "\\x1b[31m\\nerror: y" in out.read_text() and "\x1b" not in out.read_text()


def told(pipeline: str, text: str, target: str = "avx2") -> list[str]:
    """Pass, op and message of each remark."""
    trace = mdsl.trace(text, pipeline, target=target)
    return [f"{step.name.split('{')[0]}: {r.op} {r.message}" for step in trace for r in step.remarks]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_pass_of_the_pipeline_says_why_it_changes_nothing(example: Path) -> None:
    steps = mdsl.trace(example, target="avx2")
    idle = {step.name: step.obstacle for step in steps if not step.diff}
    assert idle and all(why and "does not say why" not in why for why in idle.values()), idle


PADDED = """
func.func @main(%x: tensor<1x16x8x8xf32>, %w: tensor<16x16x3x3xf32>) -> (tensor<1x16x10x10xf32>, tensor<1x20x8x8xf32>) {
  %conv = nn.conv2d %x, %w {dilations = [2, 2], pads = [2, 2, 2, 2]} : (tensor<1x16x8x8xf32>, tensor<16x16x3x3xf32>) -> tensor<1x16x8x8xf32>
  %wide = nn.pad %conv {pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 0.0 : f32} : (tensor<1x16x8x8xf32>) -> tensor<1x16x10x10xf32>
  %deep = nn.pad %conv {pads = [0, 4, 0, 0, 0, 0, 0, 0], value = 0.0 : f32} : (tensor<1x16x8x8xf32>) -> tensor<1x20x8x8xf32>
  return %wide, %deep : tensor<1x16x10x10xf32>, tensor<1x20x8x8xf32>
}
"""


def test_pack_tells_what_keeps_the_blocks_and_what_does_not() -> None:
    found = told("lower-nn,pack", PADDED)
    assert "pack: %wide works on blocks: dimension 1 by 8" in found
    assert "pack: %deep reads %conv, which is unpacked for it: not whole blocks are moved" in found


SHARED = """
func.func @main(%x: tensor<64x512xf32>) -> (tensor<64x512xf32>{more}) {{
  %w = arith.constant dense_resource<w> : tensor<512x512xf32>
  %y = nn.matmul %x, %w : (tensor<64x512xf32>, tensor<512x512xf32>) -> tensor<64x512xf32>
  return %y{also} : tensor<64x512xf32>{more}
}}
{{-# dialect_resources: {{ builtin: {{ w: "0x04000000{data}" }} }} #-}}
"""


def test_prepack_tells_of_each_constant_that_tiles_read() -> None:
    data = np.arange(512 * 512, dtype=np.float32).tobytes().hex()
    alone = told("tile,prepack", SHARED.format(more="", also="", data=data))
    assert any(
        re.match(r"prepack: %w\S* is laid out in tiles of \d+ rows, one stream for %y", t) for t in alone
    ), alone
    function = """
func.func @main(%a: tensor<8x64xf32>, %i: index) -> (tensor<8x16xf32>, tensor<1x4xf32>) {
  %w = arith.constant dense_resource<w> : tensor<64x32xf32>
  %part = tensor.extract_slice %w[0, 0] [64, 16] [1, 1] : tensor<64x32xf32> to tensor<64x16xf32>
  %other = tensor.extract_slice %w[0, 8] [1, 4] [1, 1] : tensor<64x32xf32> to tensor<1x4xf32>
  %empty = tensor.empty() : tensor<8x16xf32>
  %y = ukernel.region -> tensor<8x16xf32> {
    %p = linalg.matmul ins(%a, %part : tensor<8x64xf32>, tensor<64x16xf32>) outs(%empty : tensor<8x16xf32>) -> tensor<8x16xf32>
    ukernel.yield %p : tensor<8x16xf32>
  }
  return %y, %other : tensor<8x16xf32>, tensor<1x4xf32>
}
"""
    text = f'{function}{{-# dialect_resources: {{ builtin: {{ w: "0x04000000{data[: 64 * 32 * 8]}" }} }} #-}}'
    assert [t for t in told("prepack", text, "haswell") if t.startswith("prepack")] == [
        "prepack: %w stays in its order: 1 of its 2 readers take other parts of it than tiles of whole rows"
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (1, "keeps its operands: each weight is used 1 x"),
        (64, "is computed on f32 operands: each weight is used 64 x"),
    ],
)
def test_widen_tells_how_many_rows_there_are(rows: int, said: str) -> None:
    text = (
        f"func.func @main(%x: tensor<{rows}x32xf16>, %w: tensor<32x32xf16>) -> tensor<{rows}x32xf16> {{\n"
        f"  %y = nn.matmul %x, %w : (tensor<{rows}x32xf16>, tensor<32x32xf16>) -> tensor<{rows}x32xf16>\n"
        f"  return %y : tensor<{rows}x32xf16>\n}}"
    )
    (found,) = told("widen", text)
    assert found.startswith(f"widen: %y {said}")


def test_winograd_says_what_the_window_is() -> None:
    def reason(pads: str, strides: str, kernel: str, size: int) -> str:
        types = f"(tensor<1x16x16x16xf32>, tensor<16x16x{kernel}xf32>) -> tensor<1x16x{size}x{size}xf32>"
        text = (
            f"func.func @main(%x: tensor<1x16x16x16xf32>) -> tensor<1x16x{size}x{size}xf32> {{\n"
            f"  %w = arith.constant dense<0.5> : tensor<16x16x{kernel}xf32>\n"
            f"  %y = nn.conv2d %x, %w {{pads = {pads}, strides = {strides}}} : {types}\n"
            f"  return %y : tensor<1x16x{size}x{size}xf32>\n}}"
        )
        return next(t for t in told("winograd", text) if t.startswith("winograd: "))

    assert "its window is 3x3 with strides 2x2 and dilations 1x1, not" in reason(
        "[1, 1, 1, 1]", "[2, 2]", "3x3", 8
    )
    assert "its window is 5x5 with strides 1x1 and dilations 1x1, not" in reason(
        "[2, 2, 2, 2]", "[1, 1]", "5x5", 16
    )
    assert "its window is 1x1 with strides" in reason("[0, 0, 0, 0]", "[1, 1]", "1x1", 16)
