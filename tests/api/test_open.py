"""Programs with `?` dimensions: bound when they are compiled, or by the arguments of a call."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.cli import command
from mdsl.runtime import executable as executables

TEXT = """
func.func @main(%x: tensor<?x8xf32> {mdsl.dims = ["batch", ""]}, %bias: tensor<?x?xf32> {mdsl.dims = ["batch", ""]}) -> tensor<?x8xf32> {
  %w = arith.constant dense<0.5> : tensor<8x8xf32>
  %product = nn.matmul %x, %w : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32>
  %y = nn.add %product, %bias : (tensor<?x8xf32>, tensor<?x?xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
"""


def arrays(batch: int, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(batch)
    return random.standard_normal((batch, 8), np.float32), random.standard_normal((batch, width), np.float32)


def check(program: Any, batch: int, width: int = 8) -> None:
    x, bias = arrays(batch, width)
    wanted = x @ np.full((8, 8), 0.5, np.float32) + bias
    np.testing.assert_allclose(program(x, bias), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["vm", "jit", "reference"])
def test_a_call_gives_the_sizes(engine: str) -> None:
    program = mdsl.compile(TEXT, engine=engine)
    for batch, width in ((3, 8), (1, 8), (3, 1), (3, 8)):
        check(program, batch, width)


def test_signature() -> None:
    program = mdsl.compile(TEXT)
    assert [s.shape for s in program.inputs] == [("batch", 8), ("batch", "bias.1")]
    assert [s.shape for s in program.outputs] == [(None, 8)]
    assert repr(program) == "<Executable (x: ?x8xf32, bias: ?x?xf32) -> (y: ?x8xf32), engine vm, threads 1>"


def test_sizes_given_when_it_is_compiled(tmp_path: Path) -> None:
    program = mdsl.compile(TEXT, bind={"batch": 4, "bias.1": 8})
    assert [s.shape for s in (*program.inputs, *program.outputs)] == [(4, 8), (4, 8), (4, 8)]
    check(program, 4)
    program.save(tmp_path / "net.mbc")
    check(mdsl.load(tmp_path / "net.mbc"), 4)
    some = mdsl.compile(TEXT, bind={"batch": 4})
    assert [s.shape for s in some.inputs] == [(4, 8), (4, "bias.1")]
    check(some, 4, 1)


def test_pickle() -> None:
    check(pickle.loads(pickle.dumps(mdsl.compile(TEXT, ukernels=False))), 5)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The sizes that open executables compile for, as they do."""
    found: list[dict[str, int]] = []
    original = executables.OpenExecutable._compile

    def counted(self: Any, sizes: Any) -> Any:
        found.append(dict(sizes))
        return original(self, sizes)

    monkeypatch.setattr(executables.OpenExecutable, "_compile", counted)
    return found


def test_each_shape_is_compiled_once_and_the_oldest_is_forgotten(compilations: list[dict[str, int]]) -> None:
    program = mdsl.compile(TEXT)
    assert isinstance(program, executables.OpenExecutable)
    for batch in (1, 2, 1, 2, 1):
        check(program, batch)
    assert [c["batch"] for c in compilations] == [1, 2]
    for batch in range(3, 3 + program.KEPT - 1):
        check(program, batch)
    assert len(program._bound) == program.KEPT
    del compilations[:]
    check(program, 1)
    assert not compilations, "batch 1 was used after batch 2"
    check(program, 2)
    assert [c["batch"] for c in compilations] == [2]


def test_threads_that_want_the_same_shape_wait_for_one_compilation(
    compilations: list[dict[str, int]],
) -> None:
    program = mdsl.compile(TEXT)
    together = threading.Barrier(8)

    def call(batch: int) -> None:
        together.wait(30)
        for _ in range(5):
            check(program, batch)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call, batch) for batch in (1, 2, 1, 2, 1, 2, 1, 2)]:
            done.result(60)
    assert sorted(c["batch"] for c in compilations) == [1, 2]


def test_a_failed_compilation_is_not_kept() -> None:
    program = mdsl.compile(TEXT)
    for _ in range(2):
        with pytest.raises(mdsl.MdslError, match="shapes 2x8 and 2x3 do not broadcast together"):
            program(*arrays(2, 3))
    check(program, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mdsl.compile(TEXT)(arrays(2)[0], arrays(3)[1]), "dimension 'batch' is 2 in input 'x' and 3 in input 'bias'"),
        (lambda: mdsl.compile(TEXT)(arrays(2)[1][:, :5], arrays(2)[1]), "input 'x' must be ?x8xf32, got an array of shape 2x5"),
        (lambda: mdsl.compile(TEXT)(arrays(2)[0]), "input 'bias' is missing; the program takes x: ?x8xf32, bias: ?x?xf32"),
        (lambda: mdsl.compile(TEXT, bind={"bach": 3}), "no dimension 'bach'; did you mean 'batch'?"),
        (lambda: mdsl.compile(TEXT, bind={"batch": -1}), "at least 0, got [batch=-1]"),
        (lambda: mdsl.compile(TEXT, bind={"batch": 2.5}), "the size of dimension 'batch' must be an integer, got 2.5"),
        (
            lambda: mdsl.compile(TEXT).save("net.mbc"),
            "only a program of known shapes can be saved: dimensions 'batch', 'bias.1' have no size; give it with "
            "--bind batch=... --bind bias.1=... (in Python: bind={'batch': ..., 'bias.1': ...})",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(mdsl.MdslError, match=re.escape(message)):
        call()


def test_bytecode_has_sizes(tmp_path: Path) -> None:
    mdsl.compile(TEXT, bind={"batch": 4, "bias.1": 8}).save(tmp_path / "net.mbc")
    with pytest.raises(mdsl.MdslError, match="bind cannot be chosen any more: the program is compiled"):
        mdsl.compile(tmp_path / "net.mbc", bind={"batch": 3})


# Commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.mir").write_text(TEXT)
    return tmp_path / "net.mir"


BOUND = ["--bind", "batch=2", "--bind", "bias.1=8"]
INPUTS = ["--input", "x=2x8xf32=1", "--input", "bias=2x8xf32=2"]


@pytest.mark.parametrize("sizes", [BOUND, [], ["--bind=batch=2,bias.1=8"], ["--bind", "batch=2"]], ids=str)
@pytest.mark.parametrize("engine", ["vm", "reference"])
def test_run(net: Path, sizes: list[str], engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", str(net), "--engine", engine, *sizes, *INPUTS]) == 0
    assert capsys.readouterr().out.startswith("y: 2x8xf32\n[[6. 6.")


@pytest.mark.parametrize("sizes", [BOUND, INPUTS], ids=["bind", "input"])
@pytest.mark.parametrize("form", [[], ["--ablation"], ["--profile"]], ids=str)
def test_bench(net: Path, sizes: list[str], form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["bench", str(net), "--runs", "3", *form, *sizes]) == 0
    assert " us" in capsys.readouterr().out


def test_compile_and_opt(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["compile", str(net), *BOUND]) == 0
    assert command(["run", "net.mbc", *INPUTS]) == 0
    capsys.readouterr()
    assert command(["opt", str(net), *BOUND, "--check-each"]) == 0
    assert (
        "nn.matmul %x, %w : (tensor<2x8xf32>, tensor<8x8xf32>) -> tensor<2x8xf32>" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "net.mir: error: dimensions 'batch', 'bias.1' have no size; give it with --bind batch=... --bind bias.1=..., or with an input that has it: --input x=2x8xf32=random"),
        (["bench"], "net.mir: error: dimensions 'batch', 'bias.1' have no size; give it with --bind batch=... --bind bias.1=..., or with an input"),
        (["compile"], "net.mir: error: dimensions 'batch', 'bias.1' have no size; give it with --bind batch=... --bind bias.1=...\n"),
        (["run", "--input", "x=random"], "error: --input x=random: input 'x' is ?x8xf32, whose shape is yet to be given, as in x=2x8xf32=random"),
        (["run", "--bind", "batch=2,batch=3"], "--bind batch=2,batch=3: dimension 'batch' was given twice"),
        (["run", "--bind", "batch"], "error: --bind batch: expected NAME=SIZE, such as batch=8"),
        (["run", "--bind", "batch=2", "--bind", "batch=3"], "--bind batch=3: dimension 'batch' was given twice"),
        (["run", "--bind", "batch=-1"], "at least 0"),
        (["run", "--input", "x=2x9xf32=1"], "--input x=2x9xf32=1: input 'x' is ?x8xf32, not 2x9xf32"),
        (["opt", "--bind", "bach=2"], "no dimension 'bach'; did you mean 'batch'?"),
        (["opt", "--tile"], "tensor<?x8xf32> has a dimension of unknown size; --bind gives it one"),
    ],
)  # fmt: skip
def test_clear_errors(
    net: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([arguments[0], str(net), *arguments[1:]]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
