"""`mdsl bench`: profile, ablation, and comparison with other runtimes, absent and present ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdsl.cli import app, benchmarks
from tests.cli.benching import bench

EXAMPLES = Path(__file__).parents[2] / "examples"
CNN = EXAMPLES / "mnist" / "cnn.mir"
UNGUARDED = True  # it compares times


# Profile --------------------------------------------------------------------------------------------------


@cache
def profile(*args: object) -> dict:
    return json.loads(bench(*args, "--profile", "--runs=20", "--json=-").stdout)["profile"]


def test_profile_names_the_layers_of_the_source() -> None:
    layers = profile(CNN)["layers"]
    assert [layer["name"] for layer in layers][:3] == ["normalised", "conv1", "pool1"]
    conv = next(layer for layer in layers if layer["name"] == "conv2")
    assert conv["shape"] == "1x16x14x14 * 32x16x3x3"


def test_profile_counts_work_and_constants() -> None:
    layers = profile(CNN, "--no-winograd")["layers"]
    conv = next(layer for layer in layers if layer["name"] == "conv2")
    multiplications = 32 * 14 * 14 * 16 * 9
    assert 2 * multiplications <= conv["flops"] <= 2.1 * multiplications
    assert conv["constants"] == 4 * (32 * 16 * 9 + 32)
    assert all(layer["seconds"] >= 0 and layer["limit"] >= 0 for layer in layers)


def test_profile_tells_dispatches_of_one_kernel_apart(tmp_path: Path) -> None:
    """Two layers of one shape share a micro-kernel; each has a row of its own."""
    text = [
        "func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {",
        "  %w = arith.constant dense<0.5> : tensor<64x64xf32>",
    ]
    for source, result in ("xy", "yz"):
        text.append(
            f"  %{result} = nn.matmul %{source}, %w : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>"
        )
    path = tmp_path / "twice.mir"
    path.write_text("\n".join([*text, "  return %z : tensor<64x64xf32>", "}"]))
    matmuls = [layer for layer in profile(path)["layers"] if layer["kernel"].startswith("matmul")]
    assert [layer["name"] for layer in matmuls] == ["y", "z"]
    assert matmuls[0]["calls"] == matmuls[1]["calls"] and matmuls[0]["flops"] == 2 * 64**3


def test_profile_counts_constants_that_kernels_of_a_layer_share_out(tmp_path: Path) -> None:
    """37 blocks of 16 columns: no tile of several blocks divides them, so that two kernels have weights each."""
    matrix, out = "tensor<64x592xf32>", "tensor<1x592xf32>"
    path = tmp_path / "columns.mir"
    path.write_text(
        f"""func.func @main(%x: tensor<1x64xf32>) -> {out} {{
  %w = arith.constant dense<0.5> : {matrix}
  %y = nn.matmul %x, %w : (tensor<1x64xf32>, {matrix}) -> {out}
  return %y : {out}
}}"""
    )
    (layer,) = (found for found in profile(path)["layers"] if "matmul" in found["kernel"])
    assert layer["constants"] == 4 * 64 * 592


def test_profile_adds_up_to_a_call() -> None:
    """Loosely, for the machine may be busy: the parts are no fraction and no multiple of the whole."""
    found = profile(CNN)
    parts = sum(layer["seconds"] for layer in found["layers"]) + found["between"]
    assert 0.5 < parts / found["call"]["median"] < 1.5


def test_profile_prints_a_table() -> None:
    text = bench(CNN, "--profile", "--runs=5", "--threads=2", "--unroll-dispatch=4").stdout
    assert "conv2" in text and "(between dispatches)" in text and "roofline" in text


def test_profile_of_bytecode_names_places(tmp_path: Path) -> None:
    path = tmp_path / "cnn.mbc"
    assert CliRunner().invoke(app, ["compile", str(CNN), "-o", str(path)]).exit_code == 0
    assert any("cnn.mir:" in layer["name"] for layer in profile(path)["layers"])


# Ablation -------------------------------------------------------------------------------------------------


@cache
def ablation(*options: str) -> list[dict]:
    return json.loads(bench(CNN, *options, "--ablation", "--runs=1", "--json=-").stdout)["rows"]


def test_ablation_counts_instructions_and_dispatches() -> None:
    rows = ablation()
    names = ["interpreted", "+ micro-kernels", *(f"+ unroll-dispatch={n}" for n in (2, 4, 8)), "jit"]
    assert [row["name"] for row in rows] == names
    interpreted, single, *_, by_eight, jit = rows
    assert interpreted["kernel_calls"] == interpreted["dispatches"] == 0
    assert interpreted["instructions"] > 1000 * single["instructions"] > 0
    assert single["dispatches"] == single["kernel_calls"] > by_eight["dispatches"] > 0
    assert jit["instructions"] is None


NETWORK = """func.func @main(%image: tensor<1x3x8x8xf32>) -> tensor<1x5xf32> {
  %w = arith.constant dense<0.1> : tensor<8x3x3x3xf32>
  %one = arith.constant dense<1.0> : tensor<8xf32>
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %c = nn.conv2d %image, %w {pads = [1, 1, 1, 1]} : (tensor<1x3x8x8xf32>, tensor<8x3x3x3xf32>) -> tensor<1x8x8x8xf32>
  %n = nn.batch_norm %c, %one, %zero, %zero, %one : (tensor<1x8x8x8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x8x8xf32>
  %r = nn.relu %n : (tensor<1x8x8x8xf32>) -> tensor<1x8x8x8xf32>
  %p = nn.max_pool2d %r {kernel = [2, 2], strides = [2, 2]} : (tensor<1x8x8x8xf32>) -> tensor<1x8x4x4xf32>
  %f = nn.flatten %p : (tensor<1x8x4x4xf32>) -> tensor<1x128xf32>
  %fc = arith.constant dense<0.1> : tensor<5x128xf32>
  %y = nn.linear %f, %fc : (tensor<1x128xf32>, tensor<5x128xf32>) -> tensor<1x5xf32>
  return %y : tensor<1x5xf32>
}"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd={momentum=0.9,nesterov=true}"])
def test_ablation_of_a_training_step(optimizer: str, tmp_path: Path) -> None:
    """Of the program that `mdsl train` makes: forwards, backwards and the update in place."""
    (tmp_path / "net.mir").write_text(NETWORK)
    step = tmp_path / "step.mir"
    passes = [
        "--rebatch=4",
        "--parameters",
        "--loss=cross_entropy",
        "--train-mode",
        "--autodiff",
        f"--{optimizer}",
    ]
    assert (
        CliRunner().invoke(app, ["opt", *passes, str(tmp_path / "net.mir"), "-o", str(step)]).exit_code == 0
    )
    rows = json.loads(bench(step, "--ablation", "--runs=3", "--json=-").stdout)["rows"]
    interpreted, single, *unrolled, jit = rows
    assert len(unrolled) == 3 and interpreted["kernel_calls"] == 0 == interpreted["dispatches"]
    assert interpreted["instructions"] > 20 * single["instructions"] > 0
    assert all(
        row["kernel_calls"] == single["kernel_calls"] == single["dispatches"] for row in (*unrolled, jit)
    )
    assert single["dispatches"] > unrolled[0]["dispatches"] >= unrolled[2]["dispatches"] > 0


@pytest.mark.slow
def test_ablation_by_pass_leaves_each_out_or_says_why_not() -> None:
    rows = {
        r["name"]: r
        for r in json.loads(bench(CNN, "--ablation=passes", "--runs=3", "--json=-").stdout)["without"]
    }
    assert {"fold-batchnorm", "pack", "fuse", "winograd", "tile", "lower-vm"} <= rows.keys()
    assert all((row["seconds"] is None) == bool(row["why"]) for row in rows.values())
    assert rows["fuse"]["seconds"] > 0 and rows["tile"]["lost"] is None
    lower, upper = rows["fuse"]["spread"]
    assert lower <= rows["fuse"]["lost"] <= upper
    assert rows["inline"]["lost"] == 0 == rows["fuse-attention"]["lost"]  # compiled to the same program
    assert rows["plan-memory"]["why"].startswith("another cannot do without it: 'memref.alloc'")


def test_ablation_by_pass_of_one_run_knows_no_quartiles() -> None:
    rows = json.loads(bench(CNN, "--ablation=passes", "--runs=1", "--json=-").stdout)["without"]
    timed = [row for row in rows if row["seconds"] is not None]
    assert timed and all(row["spread"] == [row["lost"]] * 2 for row in timed)


def test_ablation_has_the_settings() -> None:
    """Every row: Winograd's transforms are micro-kernels of their own, and loops of the pipeline's tiles are more."""
    options = ("--no-winograd", "--pass-pipeline=tile{sizes=[1,16]}")
    alone = [
        json.loads(bench(CNN, *options, *more, "--runs=1", "--json=-").stdout)
        for more in ([], ["--no-ukernels"])
    ]
    rows, usual = ablation(*options), ablation()
    for row, other, found in zip([rows[1], rows[0]], [usual[1], usual[0]], alone, strict=True):
        assert row["instructions"] == found["profile"]["instructions"] != other["instructions"], row["name"]


def test_json_goes_to_a_file_beside_the_table(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert "median of" in bench(CNN, "--runs=5", "--json", path).stdout
    assert json.loads(path.read_text())["timing"]["runs"] == 5


def test_the_table_is_printed_though_the_json_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(benchmarks, "write_json", failing)
    result = CliRunner().invoke(
        app, ["bench", str(CNN), "--runs=5", "--json", str(tmp_path / "figures.json")]
    )
    assert "median of" in result.stdout and isinstance(result.exception, OSError)


# Regret ---------------------------------------------------------------------------------------------------


def test_regret_compares_the_models_tiles_with_the_fastest(tmp_path: Path) -> None:
    path = tmp_path / "regret.json"
    shown = bench(CNN, "--regret", "--json", path).stdout
    found = json.loads(path.read_text())
    tilings = found["regret"]["tilings"]
    assert any(tiling["shape"] == "1x1568 * 4x1568x16" for tiling in tilings) or len(tilings) == 4
    assert all(0 < tiling["least"] <= tiling["seconds"] for tiling in tilings)
    assert found["share"] >= 0
    assert "given away" in shown and "more than the fastest" in shown
