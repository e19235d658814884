"""The pages of docs/ that are made from declarations, and the programs that they show."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.module import TensorSpec
from mdsl.cli import main
from mdsl.compiler.entry import Spec, random_arrays
from mdsl.compiler.levels import level_of, plan
from mdsl.compiler.pipeline import parse_flag, run_passes
from mdsl.ir.registry import operations
from mdsl.ir.verifier import verify
from mdsl.passes import PASSES
from mdsl.report.check import Check
from mdsl.syntax.parser import parse, parse_file
from mdsl.syntax.printer import print_module
from mdsl.tools.reference_pages import ROOT, pages

EXAMPLES = ROOT / "examples" / "passes"
CORPUS = ROOT / "docs" / "ops.mir"
made = cache(pages)


@pytest.mark.parametrize("name", ["ops.md", "opcodes.md", "passes.md"])
def test_page_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == made()[name], f"docs/{name} is out of date: run `make docs`"


def test_every_op_has_an_example() -> None:
    shown = {op.name for op in parse_file(CORPUS).walk()}
    missing = [name for name in operations() if name not in shown]
    assert not missing, f"docs/ops.mir has no example of {', '.join(missing)}"


def test_ops_read_back_as_they_print() -> None:
    module = parse_file(CORPUS)
    verify(module)
    text = print_module(module)
    assert print_module(parse(text, "printed")) == text


def test_every_pass_has_an_example() -> None:
    files = {path.stem for path in EXAMPLES.glob("*.mir")}
    assert files == set(PASSES)


@pytest.mark.parametrize("name", list(PASSES))
def test_example_of_a_pass(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first line is a command; what that prints is in docs/passes.md, and fits on two screens."""
    command = (EXAMPLES / f"{name}.mir").read_text().partition("\n")[0].removeprefix("// ")
    program, *arguments = shlex.split(command)
    assert program == "mdsl" and f"--{name}" in [a.partition("=")[0] for a in arguments]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["mdsl", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().out
    assert not end.value.code
    assert printed.startswith("=== ") and len(printed.splitlines()) < 115
    assert f"```console\n$ {command}\n```\n\n```diff\n{printed}```\n" in made()["passes.md"]


def closed_with(specs: Sequence[Spec], size: int) -> list[TensorSpec]:
    """The specs with `size` for every dimension that has none."""
    shapes = [tuple(s if isinstance(s, int) else size for s in spec.shape) for spec in specs]
    return [TensorSpec(spec.name, spec.dtype, shape) for spec, shape in zip(specs, shapes, strict=True)]


@pytest.mark.parametrize("name", list(PASSES))
def test_example_runs(name: str) -> None:
    path = EXAMPLES / f"{name}.mir"
    reference, compiled = mdsl.compile(path, engine="reference"), mdsl.compile(path)
    inputs = random_arrays(closed_with(reference.inputs, 4), seed=0)
    wanted = reference(*inputs)
    found = compiled(*inputs)
    pairs = zip(found, wanted, strict=True) if isinstance(wanted, tuple) else [(found, wanted)]
    for array, expected in pairs:
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(PASSES))
def test_example_keeps_its_meaning(name: str) -> None:
    path = EXAMPLES / f"{name}.mir"
    flags = [
        a for a in shlex.split(path.read_text().partition("\n")[0]) if a.partition("=")[0] == f"--{name}"
    ]
    module = parse_file(path)
    for lowering, step in plan([parse_flag(flag) for flag in flags], level_of(module))[0]:
        run_passes(module, [*lowering, step], hooks=[Check()])
