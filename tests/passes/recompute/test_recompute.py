"""recompute: the same numbers, less memory, within the budget, and what it tells."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.module import DTYPES
from mdsl.cli import command
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.passes.base import functions
from mdsl.passes.nn.recompute.plan import Plan

CNN = Path(__file__).parents[3] / "examples" / "mnist" / "cnn.mir"
DEPTH = 12


def step(network: str, batch: int = 8) -> ModuleOp:
    return mdsl.opt(network, f"rebatch{{size={batch}}},parameters,loss,train-mode,autodiff")


def deep(layer: str) -> str:
    """A classifier of as many equal layers, of %x to %y and with a weight %w."""
    lines = ["func.func @main(%h0: tensor<1x64xf32>) -> tensor<1x64xf32> {"]
    for k in range(DEPTH):
        lines.append(f"  %w{k} = arith.constant dense<0.0> : tensor<64x64xf32>")
        lines.append(
            f"  %z{k} = nn.linear %h{k}, %w{k} : (tensor<1x64xf32>, tensor<64x64xf32>) -> tensor<1x64xf32>"
        )
        lines.append(layer.replace("%x", f"%z{k}").replace("%y", f"%h{k + 1}").replace("%t", f"%t{k}"))
    return "\n".join([*lines, f"  return %h{DEPTH} : tensor<1x64xf32>", "}"])


GELU = """  %t = nn.tanh %x : (tensor<1x64xf32>) -> tensor<1x64xf32>
  %y = nn.mul %t, %x : (tensor<1x64xf32>, tensor<1x64xf32>) -> tensor<1x64xf32>"""


def kept(module: ModuleOp) -> int:
    (function,) = functions(module)
    return Plan(function, function.body.terminator.operands[0]).nbytes()


def outputs(module: ModuleOp, engine: str = "vm") -> tuple[list[np.ndarray], int]:
    """What a step gives for random numbers, and the bytes of its arena."""
    exe = mdsl.compile(module, engine=engine)
    random = np.random.default_rng(0)
    inputs = [
        np.asarray(random.integers(0, 10, s.shape) if s.dtype == "i64" else random.normal(0, 0.2, s.shape), DTYPES[s.dtype])
        for s in exe.inputs
    ]  # fmt: skip
    inputs = [np.abs(a) if "variance" in s.name else a for a, s in zip(inputs, exe.inputs, strict=True)]
    found = [a.copy() for a in exe(*inputs)]
    return found, exe.program.function.arena if engine == "vm" else 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ["vm", pytest.param("reference", marks=pytest.mark.slow)])
def test_elementwise_values_are_the_same_to_the_bit_in_less_memory(engine: str) -> None:
    module = step(deep(GELU), 256)
    less = mdsl.opt(module, "recompute{budget=0.4}")
    assert kept(less) <= 0.4 * kept(module)
    (wanted, arena), (found, smaller) = outputs(module, engine), outputs(less, engine)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert engine != "vm" or smaller < 0.8 * arena


def test_segments_take_less_than_all_layers() -> None:
    """Below what cheap ops save, layers are computed again; the peak is that of what is kept and of one segment."""
    module = step(deep(GELU), 256)
    less = mdsl.opt(module, "recompute{budget=0.35}")
    assert kept(less) <= 0.35 * kept(module)
    (wanted, arena), (found, smaller) = outputs(module), outputs(less)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    assert smaller < 0.6 * arena


@cache
def of_the_cnn() -> tuple[ModuleOp, list[np.ndarray]]:
    """A step of it, and what that gives."""
    module = step(str(CNN))
    return module, outputs(module)[0]


@pytest.mark.parametrize(
    "budget", ["0", "0.7", "1K", *(pytest.param(b, marks=pytest.mark.slow) for b in ("0.2", "100000"))]
)
def test_a_network_with_normalisations_computes_the_same(budget: str) -> None:
    module, wanted = of_the_cnn()
    less = mdsl.opt(module, f"recompute{{budget={budget}}}")
    assert kept(less) < kept(module)
    found, _ = outputs(less)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * max(1e-2, np.abs(theirs).max()))


def test_nothing_is_done_where_the_budget_is_met() -> None:
    module = step(str(CNN))
    assert str(mdsl.opt(module, "recompute{budget=1.0}")) == str(module)
    assert str(mdsl.opt(module, "recompute{budget=1G}")) == str(module)


def test_no_op_runs_more_than_twice() -> None:
    module = step(deep(GELU))
    (function,) = functions(mdsl.opt(module, "recompute{budget=0}"))
    names = [r.name for op in function.body.ops for r in op.results]
    again = [n for n in names if n and n.endswith("_again")]
    assert len(again) == len(set(again)) and f"h{DEPTH - 1}_again" in again


def test_remarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step.mir").write_text(str(step(deep(GELU))))
    flags = ["--remarks=recompute", "--remarks-missed=recompute", "-o", str(tmp_path / "out.mir")]
    assert command(["opt", "--recompute=0.7", str(tmp_path / "step.mir"), *flags]) == 0
    told = capsys.readouterr().err
    assert "is computed again: 2048 bytes less, 512 operations more" in told
    assert "is kept: the budget is met" in told and "bytes for the part behind the loss, not" in told
    assert command(["opt", "--recompute=0", str(tmp_path / "step.mir"), *flags]) == 0
    assert "more than the budget of 0" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["half", "-1", "1.5", "10T", "0.5M"])
def test_wrong_budgets(budget: str) -> None:
    with pytest.raises(
        MdslError, match=r"option 'budget' must be bytes \(1000000, 64M\) or a share \(0.5\), got"
    ):
        mdsl.opt(str(CNN), f"recompute{{budget={budget}}}")


@pytest.mark.slow
def test_training_with_a_budget_gives_the_same_losses(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = {"h0": random.standard_normal((64, 64)).astype(np.float32), "labels": random.integers(0, 64, 64)}
    runs = [
        mdsl.Trainer(deep(GELU), data, init="random", batch=16, recompute=b).train(10)
        for b in ("", 0.4, "4K")
    ]
    assert runs[0] == runs[1]
    np.testing.assert_allclose(runs[2], runs[0], rtol=1e-4)
    np.savez(tmp_path / "d.npz", **data)
    (tmp_path / "n.mir").write_text(deep(GELU))
    arguments = [
        "train",
        str(tmp_path / "n.mir"),
        "--data",
        str(tmp_path / "d.npz"),
        "--steps=2",
        "--batch=16",
    ]
    assert (
        command([*arguments, "--init=random", "--recompute=0.4", "-o", str(tmp_path / "t.safetensors")]) == 0
    )
