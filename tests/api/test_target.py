"""A target that is asked for: the machine code is the target's, and what this machine cannot run is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mdsl
from mdsl.benchmarking import peak, profile
from mdsl.benchmarking.peak import Roofline
from mdsl.benchmarking.peers import environment
from mdsl.cli import app
from mdsl.codegen import native
from mdsl.compiler import measuring, program_cache
from mdsl.compiler.driver import to_bytecode
from mdsl.target.target import HOST, TARGETS, Target

TEXT = """func.func @main(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %w = arith.constant dense<0.5> : tensor<8x16xf32>
  %y = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  func.return %y : tensor<4x16xf32>
}
"""
FOREIGN = "neon" if Target.host().architecture == "x86_64" else "avx2"


@pytest.fixture
def target(executes: None) -> Target:
    """One that is not the host, and that it runs."""
    return next(target for target in TARGETS.values() if target.runs_here and target != Target.host())


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """The targets whose code is loaded from now on, one an object file."""
    seen: list[Target] = []
    check = native.check_executable

    def note(target: Target, to: str = "run") -> None:
        check(target, to)
        seen.append(target)

    monkeypatch.setattr(native, "check_executable", note)
    return seen


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.mir"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_code_is_made_for_the_target(target: Target, loaded: list[Target], engine: str) -> None:
    mdsl.compile(TEXT, engine=engine)  # what the VM itself consists of is the host's
    assert target not in loaded
    del loaded[:]
    program = mdsl.compile(TEXT, engine=engine, target=target.name)
    assert loaded[0] == target
    if engine == "jit":
        assert set(loaded[1:]) == {target}, "the program around the kernels"
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_allclose(program(x), x @ np.full((8, 16), 0.5, np.float32))


def test_a_copy_is_for_the_same_target(target: Target, loaded: list[Target]) -> None:
    program = mdsl.compile(TEXT, target=target)
    del loaded[:]
    pickle.loads(pickle.dumps(program))
    assert loaded[0] == target


def test_what_is_timed_is_the_targets(target: Target, loaded: list[Target]) -> None:
    measuring._calls([to_bytecode(mdsl.parse(TEXT))], target)[0]()
    assert loaded[0] == target


def test_what_cannot_run_here_is_refused() -> None:
    with pytest.raises(
        mdsl.MdslError, match=f"^error: code for target '{FOREIGN}' cannot run on this machine"
    ):
        mdsl.compile(TEXT, target=FOREIGN)


def test_the_reference_saves_a_program_for_any_target(tmp_path: Path) -> None:
    mdsl.compile(TEXT, target=FOREIGN, engine="reference").save(tmp_path / "net.mbc")
    assert (tmp_path / "net.mbc").stat().st_size


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", [["run"], ["run", "--fuel=9"], ["bench"], ["bench", "--profile"]], ids=" ".join
)
def test_commands_refuse_before_they_compile(
    net: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(program_cache, "to_bytecode")
    result = call(*command, net, f"--target={FOREIGN}")
    assert isinstance(result.exception, mdsl.MdslError)
    assert str(result.exception).startswith(f"error: code for target '{FOREIGN}' cannot run on this machine")


def test_commands_make_code_for_the_target(net: str, target: Target, loaded: list[Target]) -> None:
    for command in (["run"], ["run", "--fuel=9999"], ["bench", "--runs=1"]):
        del loaded[:]
        assert call(*command, net, f"--target={target.name}").exit_code == 0
        assert target in loaded, command


def test_the_roofline_is_the_targets(net: str, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Target | None] = []

    def measure(threads: int, target: Target | None, nbytes: int | None) -> Roofline:
        seen.append(target)
        return Roofline(1e9, 1e9)

    monkeypatch.setattr(profile, "measure_roofline", measure)
    result = call("bench", net, f"--target={target.name}", "--profile", "--runs=1", "--json=-")
    assert seen and set(seen) == {target}
    assert json.loads(result.stdout)["target"] == target.name


def test_the_loops_of_a_roofline_are_the_targets(target: Target, loaded: list[Target]) -> None:
    peak.fma_loop(target=target)[0]()
    peak.read_loop(1 << 20, target)[0]()
    assert loaded == [target, target]


def test_a_table_names_the_target(net: str, target: Target) -> None:
    text = call("bench", net, "--runs=1", f"--target={target.name}").stdout
    assert f", threads 1, target {target.name}\n" in text


def test_peers_are_held_to_the_target() -> None:
    plain = environment(1)
    assert environment(1, Target.parse("neon")) == plain, "no peer can be told"
    limited = environment(1, Target.parse("avx2"))
    assert (
        limited.items()
        >= {"OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2", HOST: "avx2"}.items()
    )
    assert limited["XLA_FLAGS"].startswith(plain["XLA_FLAGS"])
    assert not {"OPENBLAS_CORETYPE", HOST} & {*plain}
