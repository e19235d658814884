"""`--check-each` names the pass that changed the result, and the first op whose value is another."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import mdsl
from mdsl.cli.files import read_program
from mdsl.compiler.driver import lower_to
from mdsl.compiler.entry import closed, open_signature, random_arrays
from mdsl.compiler.levels import level_of, plan
from mdsl.compiler.pipeline import parse_pipeline, run_passes
from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg import Fill
from mdsl.ir.core import Builder
from mdsl.passes.base import Context, Pass, option
from mdsl.passes.nn.autodiff import Autodiff
from mdsl.reference import run
from mdsl.report import sampling
from mdsl.report.check import Check, first_difference
from mdsl.report.sampling import Sampling
from mdsl.support.progress import listening
from mdsl.syntax.printer import print_op

CNN = Path(__file__).parents[2] / "examples" / "mnist" / "cnn.mir"
NET = """func.func @main(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %w = arith.constant dense<0.5> : tensor<8x16xf32>
  %y = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  %z = nn.sigmoid %y : (tensor<4x16xf32>) -> tensor<4x16xf32>
  %r = nn.add %z, %y : (tensor<4x16xf32>, tensor<4x16xf32>) -> tensor<4x16xf32>
  func.return %r : tensor<4x16xf32>
}
"""


@dataclass(frozen=True)
class Cheaper(Pass):
    """Takes tanh for sigmoid."""

    name: ClassVar[str] = "cheaper"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in module.walk():
            if op.name == "nn.sigmoid":
                op.replace_by(Builder.before(op).value(nn.Tanh(op.operands[0])))


@dataclass(frozen=True)
class Starts(Pass):
    """Starts sums at 1, in memory too."""

    name: ClassVar[str] = "starts"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in module.walk():
            if isinstance(op, Fill):
                one = Builder.before(op).value(Constant.of(1.0, op.operands[0].type))
                op.operands = [one, *op.operands[1:]]


@dataclass(frozen=True)
class Hurries(Pass):
    """Gives the first name of two that are alike to what stands behind, then takes tanh for sigmoid."""

    name: ClassVar[str] = "hurries"
    wrong: bool = option(False, "take the one for the other")

    def run(self, module: ModuleOp, context: Context) -> None:
        sigmoid, add = (
            next(op for op in module.walk() if op.name == name) for name in ("nn.sigmoid", "nn.add")
        )
        if self.wrong:
            sigmoid.replace_by(Builder.before(sigmoid).value(nn.Tanh(sigmoid.operands[0])))
        else:
            add.result.name, add.result.serial = "z", sigmoid.result.serial - 1


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.mir"
    path.write_text(NET)
    return path


def test_the_first_op_that_differs_is_named(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Cheaper)
    ran = mdsl("opt", "--canonicalize", "--cheaper", "--lower-nn", "--check-each", net)
    assert ran.code == 1
    message, first = ran.stderr.splitlines()[-2:]
    assert re.match(
        r"error: pass 'cheaper' changed the result: output 'r'\[\d, \d+\] is \S+ instead of \S+ \(inputs: seed 0\)",
        message,
    )
    assert re.fullmatch(
        rf"  the first value that differs: %z, of 'nn.tanh' at {re.escape(str(net))}:4:8; most at \[\d, \d+\], \S+ instead of \S+",
        first,
    )


def test_of_two_values_of_one_name_each_is_compared_with_itself(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Hurries)
    ran = mdsl("opt", "--hurries", "--hurries=true", "--check-each", net)
    assert f"the first value that differs: %z_1, of 'nn.tanh' at {net}:4:8" in ran.stderr


def test_values_in_memory_are_compared_as_well(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Starts)
    ran = mdsl("opt", "--bufferize", "--starts", "--check-each", net)
    assert ran.code == 1 and "pass 'starts' changed the result" in ran.stderr
    assert re.search(
        r"the first value that differs: %\w+, of '[\w.]+' at .*net\.mir:3:8; most at", ran.stderr
    )


def test_a_right_pipeline_passes(mdsl: Callable[..., Any], net: Path) -> None:
    ran = mdsl("opt", "--compile-to=vm", "--check-each", net)
    assert ran.code == 0 and "error" not in ran.stderr


@pytest.mark.parametrize("level", ["buffers", "kernels", "vm"])
def test_kernels_called_often_run_natively_and_compute_the_same(level: str, executes: None) -> None:
    module = read_program(str(CNN))
    inputs, outputs = open_signature(module)
    arrays = random_arrays(closed(inputs))
    wanted = run(module, arrays)
    lower_to(module, stop=level)
    evaluator, told = Sampling(module, "checking"), list[str]()
    with listening(told.append):
        found = run(module, arrays, evaluator=evaluator)
    assert not first_difference(wanted, found, outputs)
    often = [kernel for kernel, count in evaluator.calls.items() if count > sampling.SAMPLES]
    assert often and sum(evaluator.natives[kernel] is not None for kernel in often) >= len(often) / 2
    assert told and re.fullmatch(r"checking: \d+ of \d+ ops", told[-1])


def test_a_kernel_is_judged_once_for_all_programs(monkeypatch: pytest.MonkeyPatch, executes: None) -> None:
    judged: list[str] = []
    make = sampling._native

    def noting(kernel: Any) -> Any:
        judged.append(print_op(kernel))
        return make(kernel)

    monkeypatch.setattr(sampling, "_native", noting)
    module = read_program(str(CNN))
    check = Check()
    lower_to(module, hooks=[check])
    assert len(judged) == len(set(judged)) == len(check.natives) > 0


def test_machine_code_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, executes: None) -> None:
    module = read_program(str(CNN))
    inputs, outputs = open_signature(module)
    arrays = random_arrays(closed(inputs))
    wanted = run(module, arrays)
    lower_to(module, stop="kernels")
    right = sampling._Native.run

    def wrong(native: Any, arguments: Any) -> None:
        right(native, arguments)
        for argument in arguments:
            if isinstance(argument, np.ndarray) and argument.flags.writeable:
                argument[...] += 1

    monkeypatch.setattr(sampling._Native, "run", wrong)
    evaluator = Sampling(module)
    assert not first_difference(wanted, run(module, arrays, evaluator=evaluator), outputs)
    assert evaluator.natives and not any(evaluator.natives.values())


STEP = """func.func @main(%x: tensor<4x20xf32>) -> tensor<4x5xf32> {
  %w = arith.constant dense<0.0> : tensor<5x20xf32>
  %b = arith.constant dense<0.0> : tensor<5xf32>
  %z = nn.linear %x, %w, %b : (tensor<4x20xf32>, tensor<5x20xf32>, tensor<5xf32>) -> tensor<4x5xf32>
  return %z : tensor<4x5xf32>
}"""


@pytest.mark.parametrize("optimizer", ["sgd{momentum=0.9}", "adam", "adamw", "loss-scale,adam"])
def test_a_training_step_down_to_memory(optimizer: str) -> None:
    """States are no negative numbers: of the mean of squares Adam takes the root."""
    seed = "{seed=argument}" if "scale" in optimizer else ""
    module = mdsl.opt(STEP, f"parameters,loss,autodiff{seed},{optimizer}")
    check = Check()
    check.before(module, Autodiff())
    found = dict(zip((s.name for s in open_signature(module)[0]), check._inputs(module) or (), strict=True))
    assert found["w"].min() < 0 and all(found[n].min() >= 0 for n in found if n.startswith("w_"))
    steps, _ = plan(parse_pipeline("donate,bufferize"), level_of(module))
    run_passes(module, [p for lowering, step in steps for p in (*lowering, step)], hooks=[Check()])
    assert level_of(module) == "buffers"
