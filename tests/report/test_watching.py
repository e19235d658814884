"""`mdsl opt` and `mdsl compile` watched on their way, stopped in it, and begun in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.passes.base import Context, Pass

CNN = Path(__file__).parents[2] / "examples" / "mnist" / "cnn.mir"
INPUT = ["--input", "1x1x28x28xf32=0.25"]
NET = """// A product and what follows it.
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %w = arith.constant dense<0.5> : tensor<8x16xf32>
  %y = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  %z = nn.relu %y : (tensor<4x16xf32>) -> tensor<4x16xf32>
  func.return %z : tensor<4x16xf32>
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.mir"
    path.write_text(NET)
    return path


def _relu(module: ModuleOp) -> Op:
    return next(op for op in module.walk() if op.name == "nn.relu")


@dataclass(frozen=True)
class Refuses(Pass):
    """Does not take a relu."""

    name: ClassVar[str] = "refuses"

    def run(self, module: ModuleOp, context: Context) -> None:
        raise _relu(module).error("is not to my taste")


@dataclass(frozen=True)
class Breaks(Pass):
    """Leaves an op without its operand."""

    name: ClassVar[str] = "breaks"

    def run(self, module: ModuleOp, context: Context) -> None:
        _relu(module).operands = []


@dataclass(frozen=True)
class Crashes(Pass):
    """Has a bug."""

    name: ClassVar[str] = "crashes"

    def run(self, module: ModuleOp, context: Context) -> None:
        _relu(module).replace_by(_relu(module).operands[0])
        raise AssertionError("cannot be")


def test_a_program_is_compiled_to_a_level_and_on_from_it(mdsl: Callable[..., Any], net: Path) -> None:
    wanted = mdsl("run", net, "--input", "4x8xf32=2").stdout
    for level in ("linalg", "tiled", "buffers", "vm"):
        for begin in (["compile"], ["opt"]):
            assert mdsl(*begin, net, f"--compile-to={level}", "-o", "half.mir").code == 0
            assert mdsl("compile", "half.mir", f"--compile-from={level}", "-o", "whole.mbc").code == 0
            assert mdsl("run", "whole.mbc", "--input", "4x8xf32=2").stdout == wanted
    assert "nn.matmul" in mdsl("compile", net, "--compile-to=nn").stdout


def test_a_level_that_cannot_be_reached_is_an_error(mdsl: Callable[..., Any], net: Path) -> None:
    assert (
        "the program is on the tiled level, which comes after nn"
        in mdsl("opt", "--tile", "--compile-to=nn", net).stderr
    )
    assert "no level 'tile'; did you mean 'tiled'?" in mdsl("opt", "--compile-to=tile", net).stderr
    assert "no level 'xyz'; levels: nn, linalg," in mdsl("compile", "--compile-from=xyz", net).stderr
    assert "leave out --compile-to" in mdsl("compile", "--compile-to=tiled", "--emit=asm", net).stderr


def test_each_pass_leaves_a_file_that_runs(mdsl: Callable[..., Any], tmp_path: Path) -> None:
    wanted = mdsl("run", CNN, *INPUT).stdout
    assert mdsl("opt", "--compile-to=tiled", "--dump-ir-dir=steps", CNN, "-o", "tiled.mir").code == 0
    names = sorted(p.name for p in (tmp_path / "steps").iterdir())
    assert names[:3] == ["00.input.mir", "00.input.safetensors", "01.inline.diff"]
    assert (tmp_path / "steps" / "07.widen.safetensors").is_symlink()
    assert not (tmp_path / "steps" / "05.fold-batchnorm.safetensors").is_symlink()
    assert (tmp_path / "steps" / "07.widen.diff").read_text() == ""
    folded = (tmp_path / "steps" / "05.fold-batchnorm.diff").read_text()
    assert (
        folded.startswith("=== fold-batchnorm: ") and "\n@@ 2 x 6 arith.constant + nn.batch_norm " in folded
    )
    assert "\n- %norm1 = nn.batch_norm %conv1" in folded
    (tile,) = [n for n in names if n.endswith("tile.mir")]
    assert (tmp_path / "steps" / tile).read_text() == (tmp_path / "tiled.mir").read_text()
    for name in ("07.widen.mir", tile):
        assert mdsl("run", f"steps/{name}", *INPUT).stdout == wanted


def test_a_dump_is_not_dumped_over(mdsl: Callable[..., Any], net: Path) -> None:
    """Its weights would go as well, and those of all that link to them."""
    assert mdsl("opt", "--canonicalize", "--dump-ir-dir=.", net).code == 0
    before = (net.parent / "00.input.mir").read_bytes()
    for program in ("00.input.mir", "./01.canonicalize.mir"):
        ran = mdsl("opt", "--lower-nn", "--dump-ir-dir=.", program)
        assert ran.code == 1 and "error: the program is itself a dump in this folder" in ran.stderr
    assert (net.parent / "00.input.mir").read_bytes() == before
    assert mdsl("opt", "--lower-nn", "--dump-ir-dir=more", "01.canonicalize.mir").code == 0


def test_only_passes_that_change_something_are_printed(mdsl: Callable[..., Any], net: Path) -> None:
    printed = mdsl(
        "opt", "--inline", "--lower-nn", "--fuse-rows", "--canonicalize", "--print-changed", net
    ).stderr
    assert re.findall(r"IR after (\S+)", printed) == ["lower-nn", "canonicalize"]


def test_statistics_count_ops_and_rewrites(mdsl: Callable[..., Any], net: Path) -> None:
    lines = mdsl("opt", "--inline", "--lower-nn", "--pass-statistics", net).stderr.splitlines()
    lines = [line for line in lines if not line.startswith("note:")]
    assert lines[0].split() == ["ms", "ops", "before", "after", "rewrites", "pass"]
    assert lines[1].split()[1:] == ["5", "5", "0", "inline"]
    assert re.fullmatch(r" *[\d.]+ +5 +\d+ +2  lower-nn: 1 nn.matmul, 1 nn.relu", lines[2])
    compiled = mdsl("compile", "--pass-statistics", net).stderr
    assert re.search(r"  vectorize: .*vectorize", compiled)


def test_a_limit_stops_the_last_pass(mdsl: Callable[..., Any], net: Path) -> None:
    printed = mdsl("opt", "--inline", "--lower-nn", "--rewrite-limit=1", net).stdout
    assert "linalg.matmul" in printed and "nn.relu" in printed


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Refuses, "net.mir:5:8: error: pass 'refuses': 'nn.relu': is not to my taste"),
        (Breaks, "net.mir:5:8: error: pass 'breaks' made an invalid program: 'nn.relu'"),
    ],
)
def test_a_pass_that_fails_leaves_a_reproducer(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path, step: type[Pass], message: str
) -> None:
    plant(step)
    ran = mdsl("opt", "--canonicalize", f"--{step.name}", "--crash-reproducer=failed.mir", net)
    assert ran.code == 1 and message in ran.stderr
    assert (
        f"note: the program before pass '{step.name}' is in failed.mir: mdsl opt --run-reproducer failed.mir\n"
        in ran.stderr
    )
    text = (net.parent / "failed.mir").read_text()
    assert text.startswith("func.func @main") and f'pipeline: "builtin.module({step.name})"' in text
    again = mdsl("opt", "--run-reproducer", "failed.mir")
    assert again.code == 1 and message.partition("error: ")[2] in again.stderr


def test_a_crash_leaves_the_program_before_it(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Crashes)
    with pytest.raises(AssertionError, match="cannot be") as failure:
        mdsl("compile", "--pass-pipeline=crashes", "--target=avx2", "--crash-reproducer=failed.mir", net)
    assert any("in pass 'crashes'" in note for note in failure.value.__notes__)  # beneath the traceback
    text = (net.parent / "failed.mir").read_text()
    assert "nn.relu" in text and 'target: "avx2"' in text
    with pytest.raises(AssertionError, match="cannot be"):
        mdsl("opt", "--run-reproducer", "failed.mir")


def test_a_reproducer_keeps_options_and_weights(
    mdsl: Callable[..., Any], plant: Callable[..., None], tmp_path: Path
) -> None:
    plant(Refuses)
    assert mdsl("opt", "--refuses", "--crash-reproducer=failed.mir", CNN).code == 1
    assert (tmp_path / "failed.safetensors").exists()
    text = (tmp_path / "failed.mir").read_text()
    (tmp_path / "failed.mir").write_text(
        text.replace("(refuses)", "(fold-batchnorm,lower-nn,tile{sizes=[2,16]})")
    )
    printed = mdsl("opt", "--run-reproducer", "failed.mir").stdout
    assert "scf.forall" in printed


def test_a_reproducer_that_cannot_be_written_hides_no_failure(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Refuses)
    ran = mdsl("opt", "--refuses", "--crash-reproducer=/dev/full", net)
    assert ran.code == 1 and "error: pass 'refuses'" in ran.stderr
    assert "note: no reproducer: /dev/full: " in ran.stderr


def test_without_a_failure_there_is_no_reproducer(mdsl: Callable[..., Any], net: Path) -> None:
    assert mdsl("compile", "--crash-reproducer=failed.mir", net).code == 0
    assert not (net.parent / "failed.mir").exists()


@pytest.mark.parametrize(
    "text",
    [
        NET,
        NET + '{-# external_resources: { mlir_reproducer: { pipeline: "cse" } } #-}\n',
        NET + r'{-# external_resources: { mlir_reproducer: { pipeline: "\FF" } } #-}',
        NET + r'{-# external_resources: { mlir_reproducer: { pipeline: "builtin.module(\q)" } } #-}',
    ],
)
def test_what_is_no_reproducer_is_refused(mdsl: Callable[..., Any], net: Path, text: str) -> None:
    net.write_text(text)
    ran = mdsl("opt", "--run-reproducer", net)
    assert ran.code == 1 and "net.mir: error: not a reproducer" in ran.stderr
    unknown = text.replace('"cse"', '"builtin.module(cse)"')
    net.write_text(unknown)
    if unknown != text:
        found = re.search(
            r"net.mir:8:(\d+): error: unknown pass 'cse'", mdsl("opt", "--run-reproducer", net).stderr
        )
        assert found and unknown.splitlines()[7][int(found[1]) - 1 :].startswith("cse)")
