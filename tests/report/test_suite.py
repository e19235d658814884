"""The suite of figures: what it prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import __main__ as suite
from bench import machine, page
from bench.figure import Figure
from mdsl.target.target import HOST, TARGETS, Target


def figures() -> Iterator[Figure]:
    yield Figure("speed", 0.5, "x", "at most", 0.95, "a 1 ms; b 2 ms")
    yield Figure("share", 50.0, "%", "at least", 95)
    yield Figure("absent", float("nan"), "x", "at most", 1.0, "b: not installed")
    raise RuntimeError("out of order")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict]:
    monkeypatch.setattr(
        suite, "SECTIONS", {"broken": figures, "whole": lambda: iter([Figure("n", 1.0, "s")])}
    )
    monkeypatch.setattr(suite, "describe", lambda: {"processor": "abacus", "cores": "two"})
    target, data = tmp_path / "page.md", tmp_path / "data.json"
    app = suite.typer.Typer(pretty_exceptions_enable=False)
    app.command()(suite.main)
    result = CliRunner().invoke(
        app, ["broken", "whole", f"--markdown={target}", f"--json={data}"], catch_exceptions=False
    )
    assert result.exit_code == 0
    return target.read_text(), json.loads(data.read_text())


def test_page_tells_machine_figures_and_bounds(written: tuple[str, dict]) -> None:
    page, _ = written
    assert "## abacus\n" in page and "| cores | two |" in page
    assert "| speed | 0.5 x | at most 0.95 x | kept | a 1 ms; b 2 ms |" in page
    assert "| share | 50 % | at least 95 % | **missed** |  |" in page
    assert "| absent | not measured | at most 1 x |  | b: not installed |" in page


def test_a_section_that_fails_loses_no_figure(written: tuple[str, dict]) -> None:
    _, data = written
    assert [f["name"] for f in data["figures"]] == ["speed", "share", "absent", "n"]
    assert [f["kept"] for f in data["figures"]] == [True, False, None, None]
    assert data["figures"][2]["value"] is None


def test_every_network_of_the_table_is_in_a_section() -> None:
    pytest.importorskip("onnx")
    from bench.table import NETWORKS

    assert {network.section for network in NETWORKS.values()} <= {*suite.NETWORKS}
    assert len({network.title for network in NETWORKS.values()}) == len(NETWORKS)


def test_a_page_has_a_section_a_machine() -> None:
    def measured(before: str, processor: str, value: float, *sections: str, whole: bool = False) -> str:
        found = {section: [Figure("speed", value, "x")] for section in sections}
        return page.measured(before, {"processor": processor, "cores": "two"}, found, whole)

    one = measured("# Results\n\nas they were before there were sections\n", "abacus", 1, "mlp", "resnet")
    assert one.startswith("# Results\n") and "as they were" not in one
    two = measured(one, "slide rule", 2, "mlp")
    assert two.startswith(one) and two.count("| cores | two |") == 2
    part = measured(two, "abacus", 3, "resnet")
    assert [part.count(f"| speed | {n} x |") for n in (1, 2, 3)] == [1, 1, 1]
    assert part.index("### mlp") < part.index("1 x") < part.index("### resnet") < part.index("3 x")
    assert measured(part, "abacus", 1, "resnet") == two
    anew = measured(two, "abacus", 4, "resnet", whole=True)
    assert anew.count("### mlp") == 1 and "1 x" not in anew and "2 x" in anew and "4 x" in anew


def test_another_machine_is_taken_for_all_that_follows(
    monkeypatch: pytest.MonkeyPatch, executes: None
) -> None:
    monkeypatch.setenv(HOST, "")
    other = next(t.name for t in TARGETS.values() if t.runs_here and t.name != Target.host().name)
    suite._take_for(other)
    assert Target.host().name == other
    assert f"taken for {other}" in machine._kind(Target.host())


def test_a_machine_whose_code_cannot_run_is_refused() -> None:
    foreign = "neon" if Target.host().architecture == "x86_64" else "avx2"
    with pytest.raises(suite.typer.BadParameter, match=f"code for target '{foreign}' cannot run"):
        suite._take_for(foreign)


WITHOUT_ONNX = """
import importlib.util as util, runpy, sys
find = util.find_spec
util.find_spec = lambda name, package=None: None if name == "onnx" else find(name, package)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["-m", "bench.onnx_mlp", "none/x.onnx"], "none/x.onnx: error: cannot write: No such file or directory\n"),
        (["-m", "bench.models", "squeezenet", "-o", "none/x.onnx"], "none/x.onnx: error: cannot write: No such file or directory\n"),
        (["-c", WITHOUT_ONNX, "bench.onnx_mlp", "x.onnx"], "error: .onnx files need the package onnx: pip install 'mdsl[onnx]'\n"),
        (["-c", WITHOUT_ONNX, "bench.models", "--help"], "error: .onnx files need the package onnx: pip install 'mdsl[onnx]'\n"),
    ],
)  # fmt: skip
def test_scripts_that_write_models_fail_with_one_line(
    command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, message)
