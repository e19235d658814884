"""The commands, as a user calls them."""

from __future__ import annotations

import ast
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mdsl.cli import app
from mdsl.cli.passes import pass_help
from mdsl.cli.progress import progress
from mdsl.errors import MdslError
from mdsl.passes import all_passes, pass_names
from mdsl.support.progress import tell
from mdsl.target.target import Target, TargetError
from tests.targets import EVERY

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
COMMAND = [sys.executable, "-m", "mdsl"]
TEXT = """func.func @main(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %w = arith.constant dense<0.5> : tensor<8x16xf32>
  %y = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  func.return %y : tensor<4x16xf32>
}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.mir"
    path.write_text(TEXT)
    return path


def mdsl(*args: object, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in args], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_opt_without_passes_prints_the_canonical_form(net: Path) -> None:
    assert mdsl("opt", net).stdout == TEXT
    assert mdsl("opt", "-", input=TEXT).stdout == TEXT
    assert mdsl("opt", "--generic", net).stdout.startswith('"builtin.module"() ({\n')


def test_opt_runs_passes_in_the_order_given(net: Path) -> None:
    result = mdsl(
        "opt",
        net,
        "--lower-nn",
        "--diff",
        "--tile=2x16",
        "--fuse",
        "--pass-pipeline=canonicalize,outline-ukernels",
    )
    headers = [line.partition(": ")[0] for line in result.stdout.splitlines() if line.startswith("=== ")]
    assert headers == ["=== lower-nn", "=== tile{sizes=[2,16]}", "=== outline-ukernels"]
    assert "note: pass 'fuse' changed nothing" in result.stderr


def test_opt_lowers_as_far_as_a_pass_needs(net: Path) -> None:
    result = mdsl("opt", "--unroll-dispatch=2", net, "--diff")
    assert (
        "pass 'unroll-dispatch' works on the kernels level; ran the standard passes down to it first: inline, "
        in result.stderr
    )
    assert "=== tile" not in result.stdout


def test_opt_runs_no_pass_twice_in_a_row_to_lower(net: Path) -> None:
    note = mdsl("opt", "--fold-shapes", net).stderr
    assert (
        "inline, canonicalize, trim-filters, decompose, fold-batchnorm, fuse-gelu, widen, canonicalize, lower-nn, canonicalize\n"
        in note
    )


def test_opt_watches(net: Path) -> None:
    result = mdsl(
        "opt", "--canonicalize", "--lower-nn", "--check-each", "--timing", "--print-ir-after-all", net
    )
    assert "// ---- IR after canonicalize ----" in result.stderr
    assert "100.0 %  total" in result.stderr
    assert "linalg." in result.stdout


def test_weights_go_where_the_text_is(tmp_path: Path) -> None:
    out = tmp_path / "folded.mir"
    mdsl("opt", "--fold-batchnorm", EXAMPLES / "mnist" / "cnn.mir", "-o", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folded.mir", "folded.safetensors"]
    same = ["--input", "1x1x28x28xf32=0.25", "--engine", "reference"]
    original = mdsl("run", EXAMPLES / "mnist" / "cnn.mir", *same)
    assert mdsl("run", out, *same).stdout == original.stdout
    # Written over itself: the tensors that the text names stay readable.
    mdsl("opt", "--lower-nn", out, "-o", out)
    assert mdsl("run", out, *same).stdout == original.stdout
    # Through a pipe, new data travels in the text.
    text = mdsl("opt", "--fold-batchnorm", EXAMPLES / "mnist" / "cnn.mir").stdout
    assert "dialect_resources" in text


def test_compile_dis_and_run(net: Path) -> None:
    assert mdsl("compile", net).exit_code == 0
    assert (net.parent / "net.mbc").exists()
    listing = mdsl("dis", "net.mbc").stdout
    assert (
        "function @main(x: tensor<4x8xf32>) -> (y: tensor<4x16xf32>) {" in listing
        and "ukernel.func" in listing
    )
    assert "ukernel.func" not in mdsl("dis", "net.mbc", "--no-kernels").stdout
    assert (
        mdsl("run", "net.mbc", "--input", "4x8xf32=1").stdout
        == mdsl("run", net, "--input", "4x8xf32=1").stdout
    )


def test_a_compiled_program_runs_without_the_compiler(executes: None, net: Path) -> None:
    mdsl("compile", net)
    code = (
        "import sys; from mdsl.cli import command; command(['run', 'net.mbc', '--input', '4x8xf32=1'])\n"
        "print([m for m in ('mdsl.passes.base', 'mdsl.dialects', 'mdsl.api', 'lark', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=net.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith("y: 4x16xf32\n") and done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("emit", "word"), [("mir", "mvm.func"), ("llvm", "define void @"), ("asm", ".globl")]
)
def test_compile_to_text(net: Path, emit: str, word: str) -> None:
    assert word in mdsl("compile", net, f"--emit={emit}", "--target=avx2").stdout
    assert [p.name for p in net.parent.iterdir()] == ["net.mir"]


@pytest.mark.parametrize("target", EVERY)
def test_every_target_on_every_host(net: Path, target: str) -> None:
    """Nothing is executed: `--tune` is refused at the first thing that must be timed, where the target cannot run."""
    machine = Target.parse(target)
    register = {64: "%zmm", 32: "%ymm", 16: "%xmm"}[machine.vector_bytes]
    assembly = mdsl("compile", net, "--emit=asm", f"--target={target}").stdout
    assert ("v0" if machine.architecture == "aarch64" else register) in assembly
    assert "define void @" in mdsl("compile", net, "--emit=llvm", f"--target={target}").stdout
    mdsl("compile", net, "-o", "net.mbc", f"--target={target}")
    assert "mvm.func" in mdsl("compile", net, "--emit=mir", f"--target={target}").stdout
    assert "+ %" in mdsl("opt", net, "--tune=1", "--tile", "--diff", f"--target={target}").stdout
    if not machine.runs_here:
        with pytest.raises(MdslError, match=f"tune: code for target '{target}' cannot be timed"):
            mdsl("compile", net, "--tune", "--emit=mir", f"--target={target}")


def test_a_host_that_this_processor_is_not(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "neon" if platform.machine() in ("x86_64", "AMD64") else "avx2"
    monkeypatch.setenv("MDSL_HOST", other)
    assert mdsl("compile", net, "-o", "net.mbc").exit_code == 0
    assert mdsl("run", net, "--engine=reference").stdout.startswith("y: 4x16xf32\n")
    for command in (["run", net], ["run", "net.mbc"], ["bench", net]):
        with pytest.raises(TargetError, match=f"code for target '{other}' cannot run .* by MDSL_HOST"):
            mdsl(*command)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--engine=jit"],
        ["--engine=reference"],
        ["--threads=2"],
        ["--no-ukernels"],
        ["--unroll-dispatch=2"],
    ],
    ids=" ".join,
)
def test_run(net: Path, options: list[str]) -> None:
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    np.save("x.npy", x)
    np.savez("x.npz", x=x, other=x)
    for spec in ("x.npy", "x=x.npy", "x=x.npz"):
        assert mdsl("run", net, "--input", spec, "--output", "out.npz", *options).exit_code == 0
        with np.load("out.npz") as out:
            np.testing.assert_allclose(out["y"], x @ np.full((8, 16), 0.5, np.float32))


@pytest.mark.parametrize("text", ["x=1", "1", "1.0", "4x8xf32=1", "x=1e0"])
def test_run_knows_the_shape_of_an_input(net: Path, text: str) -> None:
    assert mdsl("run", net, "--input", text).stdout.startswith("y: 4x16xf32\n[[4. 4. 4.")


def test_run_writes_one_output_as_npy(net: Path) -> None:
    assert mdsl("run", net, "--input", "1", "-o", "out.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("out.npy"), np.full((4, 16), 4, np.float32))


def test_run_takes_any_level(net: Path) -> None:
    expected = mdsl("run", net, "--input", "x=4x8xf32=1").stdout
    for step in (
        "lower-nn",
        "fuse",
        "tile",
        "outline-ukernels",
        "bufferize",
        "plan-memory",
        "vectorize",
        "lower-vm",
    ):
        level = net.parent / f"{step}.mir"
        mdsl("opt", f"--{step}", net, "-o", level)
        assert mdsl("run", level, "--input", "x=4x8xf32=1").stdout == expected, step
        assert mdsl("run", level, "--engine=reference", "--input", "x=4x8xf32=1").stdout == expected, step


def test_run_with_random_numbers(net: Path) -> None:
    result = mdsl("run", net)
    assert "note: no --input: random numbers of seed 0 for x" in result.stderr
    for text in ("4x8xf32=random", "x=random", "random"):
        assert result.stdout == mdsl("run", net, "--input", text).stdout
    assert result.stdout != mdsl("run", net, "--seed=1").stdout


def test_bench(net: Path) -> None:
    assert "median of" in mdsl("bench", net, "--runs=20").stdout
    found = json.loads(mdsl("bench", net, "--runs=20", "--json=-").stdout)
    assert found["timing"]["median"] > 0 and found["profile"]["instructions"] > 0


def test_ops() -> None:
    assert "nn.conv2d" in mdsl("ops").stdout
    assert "strides" in mdsl("ops", "nn.conv2d").stdout


def test_help_of_passes_is_that_of_the_classes() -> None:
    assert pass_names() == [p.name for p in all_passes()]
    for step, (_, text) in zip(all_passes(), pass_help(), strict=True):
        assert step.__doc__ is not None
        assert text.startswith(step.__doc__.partition("\n")[0])


@pytest.mark.parametrize(
    "command", [[], ["opt"], ["run"], ["compile"], ["dis"], ["bench"], ["ops"], ["fmt"]], ids=" ".join
)
def test_help_is_fast(command: list[str]) -> None:
    done, seconds = _processor_seconds([*command, "--help"], 0.2 * _slowness())
    assert "Usage: mdsl" in done
    assert seconds < 0.2 * _slowness()
    assert _loaded([*command, "--help"], ("numpy", "llvmlite", "lark", "rich", "pydantic")) == []


def test_a_pass_on_a_small_file_is_fast() -> None:
    arguments = ["opt", "--fuse", "examples/passes/fuse.mir"]
    done, seconds = _processor_seconds(arguments, 0.4 * _slowness())
    assert "ukernel.region" in done
    assert seconds < 0.4 * _slowness()
    heavy = ("llvmlite", "onnx", "pydantic", "mdsl.codegen", "mdsl.vm", "mdsl.passes.linalg.tile")
    assert _loaded(arguments, heavy) == []


def _processor_seconds(arguments: list[str], limit: float) -> tuple[str, float]:
    """The output of a command of mdsl and the processor time that it takes: the least of three runs, or that of the first one below
    the limit."""
    return _timed([*COMMAND, *arguments], limit)


@cache
def _slowness() -> float:
    """How many times longer than on the machine that the limits are from this one may take: at least twice, and more where
    an import that is none of ours takes longer."""
    return 2 * max(1.0, _timed([sys.executable, "-c", "import numpy"])[1] / 0.1)


def _timed(command: list[str], limit: float = 0.0) -> tuple[str, float]:
    seconds: list[float] = []
    text = ""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(3):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        text = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        ).stdout
        seconds.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before)
        if seconds[-1] < limit:
            break
    return text, min(seconds)


def _loaded(arguments: list[str], modules: Sequence[str]) -> list[str]:
    """Those of `modules` that a command imports."""
    code = f"import sys; sys.argv = ['mdsl', *{arguments!r}]\nfrom mdsl.cli import app\ntry: app()\nexcept SystemExit: pass\n"
    code += f"print([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_a_closed_pipe_is_no_error(net: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "opt", str(net)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == -signal.SIGPIPE


def test_a_terminal_is_told_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("compiling"):
        tell("tuning region 1 of 2: y")
    tell("to nobody")
    assert "tuning region 1 of 2: y" in terminal.getvalue() and "nobody" not in terminal.getvalue()
