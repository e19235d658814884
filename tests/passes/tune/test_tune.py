"""tune: the tile that was measured is noted, used by `tile`, and found again in the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.analysis.tile_sizes import TILE
from mdsl.codegen import native
from mdsl.compiler import measuring
from mdsl.compiler.driver import to_bytecode
from mdsl.compiler.settings import Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.passes.base import Context
from mdsl.passes.linalg.tune import Tune
from mdsl.support.progress import listening
from mdsl.target.core import CORES
from mdsl.target.target import Target

PROGRAM = """
func.func @main(%a: tensor<24x32xf32>, %b: tensor<32x48xf32>) -> tensor<24x48xf32> {
  %c = nn.matmul %a, %b : (tensor<24x32xf32>, tensor<32x48xf32>) -> tensor<24x48xf32>
  %y = nn.relu %c : (tensor<24x48xf32>) -> tensor<24x48xf32>
  return %y : tensor<24x48xf32>
}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))


def _noted(module: ModuleOp) -> list[tuple[int, ...]]:
    found = [op.attributes[TILE] for op in module.walk() if TILE in op.attributes]
    assert all(isinstance(a, DenseArrayAttr) for a in found)
    return [a.values for a in found]


def test_the_fastest_candidate_is_noted() -> None:
    seen: list[list[str]] = []

    def last(program: ModuleOp, pipelines: Sequence[str], rounds: int) -> list[float]:
        seen.append([*pipelines])
        return [3.0, 2.0, 1.0]

    module = mdsl.opt(PROGRAM, "fuse,canonicalize")
    Tune(candidates=3).run(module, Context(measure=last))
    ((_, _, fastest),) = seen
    assert [f"tile{{sizes=[{','.join(map(str, sizes))}]}}" for sizes in _noted(module)] == [fastest]


def _count(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """The targets for which programs are really timed from now on; nothing runs."""
    seen: list[Target] = []
    check = native.check_executable

    def note(target: Target, to: str = "run") -> None:
        if to == "be timed":
            seen.append(target)
        else:
            check(target, to)

    monkeypatch.setattr(native, "check_executable", note)
    monkeypatch.setattr(measuring, "_calls", lambda modules, _: [lambda: None for _ in modules])
    return seen


def test_a_second_time_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _count(monkeypatch)
    first = _noted(mdsl.opt(PROGRAM, "fuse,tune{candidates=2,rounds=1}"))
    assert first and len(seen) == 1
    assert _noted(mdsl.opt(PROGRAM, "fuse,tune{candidates=2,rounds=1}")) == first
    assert len(seen) == 1


@pytest.mark.parametrize(
    "change",
    [{"features": "+sse2"}, {"core": replace(CORES["znver2"], name="another")}],
    ids=["features", "core"],
)
def test_another_machine_measures_anew(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    seen = _count(monkeypatch)
    host = Target.host()
    targets = [host, replace(host, **change)]
    for target in (*targets, *targets):
        mdsl.opt(PROGRAM, "fuse,tune{candidates=2,rounds=1}", target=target)
    assert seen == targets


def test_code_for_another_machine_is_not_timed() -> None:
    foreign = "neon" if Target.host().architecture == "x86_64" else "avx2"
    with pytest.raises(mdsl.MdslError, match=f"tune: code for target '{foreign}' cannot be timed"):
        to_bytecode(mdsl.parse(PROGRAM), Settings(target=foreign, tune=True))


def test_nothing_is_refused_where_nothing_is_timed() -> None:
    """One candidate needs no measuring, nor does a program without contractions."""
    foreign = "neon" if Target.host().architecture == "x86_64" else "avx2"
    assert _noted(mdsl.opt(PROGRAM, "fuse,tune{candidates=1}", target=foreign))
    text = "func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {\n  %y = nn.relu %a : (tensor<4xf32>) -> tensor<4xf32>\n  return %y : tensor<4xf32>\n}"
    assert to_bytecode(mdsl.parse(text), Settings(target=foreign, tune=True))


def test_tile_cuts_as_noted_and_forgets_the_note() -> None:
    noted = mdsl.opt(PROGRAM, "fuse,tune{candidates=1}")
    (op,) = (op for op in noted.walk() if TILE in op.attributes)
    *blocks, _, columns = op.attributes[TILE].values
    op.attributes[TILE] = DenseArrayAttr(op.attributes[TILE].element, (*[1] * len(blocks), 3, columns))
    tiled = mdsl.opt(noted, "tile")
    assert re.search(rf"tensor<(1x)*3x{columns}xf32>", str(tiled))
    assert not _noted(tiled)


def test_the_flag_puts_the_pass_before_tile() -> None:
    executable = mdsl.compile(PROGRAM, tune=True)
    passes = executable.bytecode().provenance["pipeline"].split(",")
    assert passes.index("tune") == passes.index("tile") - 1


def test_the_result_stays() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((24, 32)).astype(np.float32), rng.standard_normal((32, 48)).astype(np.float32)
    tuned = mdsl.compile(PROGRAM, pipeline="fuse,tune{candidates=2,rounds=1}")
    np.testing.assert_allclose(tuned(a, b), np.maximum(a @ b, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("element", ["f64", "i32"])
def test_other_element_types(element: str) -> None:
    text = PROGRAM.replace("f32", element)
    executable = mdsl.compile(text, pipeline="fuse,tune{candidates=2,rounds=1}")
    dtype = {"f64": np.float64, "i32": np.int32}[element]
    a, b = np.ones((24, 32), dtype), np.full((32, 48), 2, dtype)
    np.testing.assert_array_equal(executable(a, b), np.full((24, 48), 64, dtype))


def test_it_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _count(monkeypatch)
    twice = PROGRAM.replace(
        "  return %y : tensor<24x48xf32>",
        "  %d = nn.matmul %y, %w : (tensor<24x48xf32>, tensor<48x48xf32>) -> tensor<24x48xf32>\n"
        "  return %d : tensor<24x48xf32>",
    ).replace("%b: tensor<32x48xf32>", "%b: tensor<32x48xf32>, %w: tensor<48x48xf32>")
    told: list[str] = []
    with listening(told.append):
        mdsl.compile(twice, tune=True)
    assert told == ["tuning region 1 of 2: y_packed", "tuning region 2 of 2: d_packed"]


def test_a_candidate_that_is_hardly_faster_is_not_taken() -> None:
    """What measuring differs by must not decide."""
    for seconds, number in (([1.0, 0.98, 2.0], 0), ([1.0, 0.9, 2.0], 1)):
        seen: list[list[str]] = []

        def timed(
            program: ModuleOp, pipelines: Sequence[str], rounds: int, seconds: list[float] = seconds
        ) -> list[float]:
            seen.append([*pipelines])  # noqa: B023
            return seconds

        module = mdsl.opt(PROGRAM, "fuse,canonicalize")
        Tune(candidates=3).run(module, Context(measure=timed))
        assert [f"tile{{sizes=[{','.join(map(str, sizes))}]}}" for sizes in _noted(module)] == [
            seen[0][number]
        ]


def test_layers_of_one_shape_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their values are called."""
    seen = _count(monkeypatch)
    twice = (
        PROGRAM.replace("%y = nn.relu", "%d = nn.relu")
        .replace("return %y", "return %y")
        .replace(
            "  return",
            "  %w = arith.constant dense<1.0> : tensor<48x32xf32>\n"
            "  %e = nn.matmul %d, %w : (tensor<24x48xf32>, tensor<48x32xf32>) -> tensor<24x32xf32>\n"
            "  %f = nn.matmul %e, %b : (tensor<24x32xf32>, tensor<32x48xf32>) -> tensor<24x48xf32>\n"
            "  %y = nn.relu %f : (tensor<24x48xf32>) -> tensor<24x48xf32>\n  return",
        )
    )
    assert len(_noted(mdsl.opt(twice, "fuse,tune{candidates=2,rounds=1}"))) == 3
    assert len(seen) == 2
