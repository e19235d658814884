"""What commands write, and that nothing is lost that they or others read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from typer.testing import CliRunner, Result

import mdsl as api
from bench import onnx_mlp
from mdsl.cli import app, command

ROOT = Path(__file__).parents[2]
CNN = ROOT / "examples" / "mnist" / "cnn.mir"
SAME = ["--input", "1x784xf32=0.25"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it holds `mlp.onnx`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlp.onnx").write_bytes(onnx_mlp.model())
    return tmp_path


def mdsl(*args: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The message of a command that must fail and change nothing."""
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert command(list(args)) == 1
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    return capsys.readouterr().err


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("output", ["mlp.onnx", "../{folder}/mlp.onnx", "link.onnx"])
@pytest.mark.parametrize("verb", ["import", "compile", "opt", "run"])
def test_an_output_is_not_the_model_that_is_read(
    verb: str, output: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link.onnx").symlink_to("mlp.onnx")
    output = output.format(folder=folder.name)
    message = refused(capsys, verb, "mlp.onnx", "-o", output)
    assert message == f"{output}: error: the output is the input file, which would be lost\n"


def test_a_model_of_any_name_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlp.onnx").rename("mlp.model")
    assert "the output is the input file" in refused(capsys, "import", "mlp.model", "-o", "mlp.model")
    mdsl("import", "mlp.model")
    assert names() == ["mlp.mir", "mlp.model", "mlp.safetensors"]


def test_text_may_take_the_place_of_text_only(capsys: pytest.CaptureFixture[str]) -> None:
    mdsl("import", "mlp.onnx", "-o", "net.mir")
    text = Path("net.mir").read_text()
    for arguments in (["compile"], ["compile", "--emit=asm"], ["opt", "--diff"], ["run"]):
        assert "the output is the input file" in refused(capsys, *arguments, "net.mir", "-o", "net.mir")
    assert Path("net.mir").read_text() == text
    expected = mdsl("run", "net.mir", *SAME).stdout
    mdsl("opt", "net.mir", "--lower-nn", "-o", "net.mir")
    mdsl("compile", "net.mir", "--emit=mir", "-o", "net.mir")
    assert "mvm.func" in Path("net.mir").read_text()
    assert mdsl("run", "net.mir", *SAME).stdout == expected
    mdsl("compile", "net.mir")
    assert "the output is the input file" in refused(capsys, "dis", "net.mbc", "-o", "net.mbc")


@pytest.mark.parametrize("arguments", [["import", "mlp.onnx"], ["compile", "mlp.onnx"], ["opt", "mlp.onnx"]])
def test_an_output_is_not_named_as_weights_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mdsl("import", "mlp.onnx", "-o", "net.mir")
    message = refused(capsys, *arguments, "-o", "net.safetensors")
    assert "net.safetensors: error: a .safetensors file holds weights" in message


def test_programs_of_different_names_have_weights_of_their_own() -> None:
    mdsl("import", "mlp.onnx", "-o", "net.mir")
    expected = mdsl("run", "net.mir", *SAME).stdout
    weights = Path("net.safetensors").read_bytes()
    mdsl("opt", CNN, "--fold-batchnorm", "-o", "net.squeeze")
    mdsl("import", "mlp.onnx", "-o", "net.v2")
    assert names() == [
        "mlp.onnx", "net.mir", "net.safetensors",
        "net.squeeze", "net.squeeze.safetensors", "net.v2", "net.v2.safetensors",
    ]  # fmt: skip
    assert Path("net.safetensors").read_bytes() == weights
    assert mdsl("run", "net.mir", *SAME).stdout == mdsl("run", "net.v2", *SAME).stdout == expected
    assert mdsl("run", "net.squeeze").stdout == mdsl("run", CNN).stdout


def test_an_import_leaves_nothing_of_the_weights_before() -> None:
    mdsl("import", "mlp.onnx")
    weights = Path("mlp.safetensors").read_bytes()
    mdsl("opt", CNN, "--fold-batchnorm", "-o", "mlp.mir")
    mdsl("import", "mlp.onnx")
    assert Path("mlp.safetensors").read_bytes() == weights


def test_nothing_lies_beside_a_pipe_or_a_device() -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    small = "func.func @main() -> tensor<2xf32> {\n  %y = arith.constant dense_resource<w> : tensor<2xf32>\n  return %y : tensor<2xf32>\n}\n"
    section = '{-# dialect_resources: { builtin: { w: "0x400000000000803F00000040" } } #-}\n'
    Path("small.mir").write_text(small + section)
    mdsl("opt", "small.mir", "-o", "pipe")
    assert b"dialect_resources" in os.read(reader, 10_000)
    os.close(reader)
    mdsl("opt", "mlp.onnx", "--fuse", "-o", "/dev/null")
    assert not Path("/dev/null.safetensors").exists()
    assert names() == ["mlp.onnx", "pipe", "small.mir"]


def test_a_folder_gets_no_weights_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("place").mkdir()
    assert "place: error: cannot write: it is a folder" in refused(
        capsys, "import", "mlp.onnx", "-o", "place"
    )
    assert names() == ["mlp.onnx", "place"]


def test_import_says_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    result = mdsl("import", "mlp.onnx")
    assert result.stderr == "note: wrote mlp.mir and mlp.safetensors (2.68 MB)\n"
    assert mdsl("import", "mlp.onnx", "-o", "-").stderr == ""
    assert "--check writes nothing" in refused(capsys, "import", "--check", "mlp.onnx", "-o", "net.mir")


def test_a_diff_goes_where_the_output_goes() -> None:
    printed = mdsl("opt", "mlp.onnx", "--lower-nn", "--fuse", "--diff").stdout
    result = mdsl("opt", "mlp.onnx", "--lower-nn", "--fuse", "--diff", "-o", "d.diff")
    assert result.stdout == ""
    assert Path("d.diff").read_text() == printed
    assert printed.startswith("=== lower-nn: ")
    assert names() == ["d.diff", "mlp.onnx"]


@pytest.mark.parametrize("arguments", [["--diff"], ["--pass-pipeline", ""]])
def test_no_passes(arguments: list[str]) -> None:
    assert mdsl("opt", "mlp.onnx", *arguments).stderr == "note: no passes were given\n"


def test_capitals_in_the_name_of_a_file() -> None:
    Path("mlp.onnx").rename("MLP.ONNX")
    mdsl("import", "MLP.ONNX", "-o", "NET.MIR")
    mdsl("compile", "MLP.ONNX", "-o", "NET.MBC")
    assert names() == ["MLP.ONNX", "NET.MBC", "NET.MIR", "NET.safetensors"]
    results = {mdsl("run", name, *SAME).stdout for name in ("MLP.ONNX", "NET.MBC", "NET.MIR")}
    assert len(results) == 1
    image = np.full((1, 784), 0.25, np.float32)
    np.testing.assert_array_equal(api.compile("NET.MBC")(image), api.compile("MLP.ONNX")(image))


WHAT = {
    ".mbc": "it is compiled bytecode, which 'mdsl run', 'bench', 'report' and 'dis' take",
    ".safetensors": "it holds weights (.safetensors); the program is the .mir file beside it",
    ".npz": "it is a zip archive",
    ".onnx": "it looks like an ONNX model, which 'mdsl run' and others take by a name that ends in .onnx",
    ".mir": "it is text; 'mdsl run' and others take a program by a name that ends in .mir",
}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "file.mir"], ".mir"),
        (["opt", "file"], ".mir"),
        (["compile", "file.mir"], ".mir"),
        (["import", "file"], ".onnx"),
        (["run", "file.onnx"], ".onnx"),
        (["dis", "file"], ".mbc"),
        (["run", "file.mbc"], ".mbc"),
    ],
    ids=str,
)
def test_a_message_says_what_a_file_is(
    arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mdsl("import", "mlp.onnx", "-o", "net.mir")
    mdsl("compile", "net.mir")
    mdsl("run", "net.mir", "-o", "net.npz")
    Path("mlp.onnx").rename("net.onnx")
    name = {".mir": "text file", ".onnx": "ONNX model", ".mbc": ".mbc file"}[wanted]
    for suffix, what in WHAT.items():
        if suffix != wanted:
            Path(arguments[1]).write_bytes(Path(f"net{suffix}").read_bytes())
            message = refused(capsys, *arguments)
            assert f"{arguments[1]}: error: not a" in message and name in message and what in message
    for damaged in (b"\x08", b"\x00\xff\xfe"):
        Path(arguments[1]).write_bytes(damaged)
        assert "it is text" not in refused(capsys, *arguments)
