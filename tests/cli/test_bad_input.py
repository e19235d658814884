"""Whatever is wrong with the input, the user gets one message that says where, exit code 1, and no half-written file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mdsl.cli import command
from mdsl.compiler import driver

HEAD = "func.func @main(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {\n"
TAIL = "  return %y : tensor<4x8xf32>\n}\n"
GOOD = f"{HEAD}  %y = nn.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>\n{TAIL}"


def program(line: str) -> str:
    return f"{HEAD}  {line}\n{TAIL}"


RELU = "%y = nn.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>"

# What the text is, and the first line of the message (a regular expression) and the text over its caret.
TEXTS = {
    "syntax": (program("%y = nn.relu %x : (tensor<4x8xf32> -> tensor<4x8xf32>"), r"net\.mir:3:3: error: unexpected text, got 'return'", "return"),
    "end of text": (HEAD, r"net\.mir:1:\d+: error: .*got the end of the text", None),
    "bad character": (program("%y = nn.relu %x ` 4"), r"net\.mir:2:19: error: .*got '`'", "`"),
    "unknown op": (program(RELU.replace("relu", "relv")), r"net\.mir:2:8: error: unknown operation 'nn\.relv'; did you mean 'nn\.relu'\?", "nn.relv"),
    "operand type": (program(RELU.replace("(tensor<4x8", "(tensor<4x9")), r"net\.mir:2:\d+: error: %x is of type tensor<4x8xf32>", None),
    "result type": (program(RELU.replace("-> tensor<4x8", "-> tensor<4x9")), r"net\.mir:\d:\d+: error: ", None),
    "undefined value": (program(RELU.replace("%x", "%z")), r"net\.mir:2:16: error: %z is not defined", "%z"),
    "attribute": (program("%y = nn.softmax %x {axis = \"one\"} : (tensor<4x8xf32>) -> tensor<4x8xf32>"), r"net\.mir:2:8: error: .*attribute 'axis' must be an integer", "nn.softmax"),
    "attribute value": (program("%y = nn.softmax %x {axis = 7} : (tensor<4x8xf32>) -> tensor<4x8xf32>"), r"net\.mir:2:8: error: .*axis", "nn.softmax"),
    "redefined value": (program(f"{RELU}\n  {RELU}"), r"net\.mir:3:\d+: error: %y is already defined", None),
    "no weights file": (program("%y = arith.constant dense_resource<w> : tensor<4x8xf32>"), r"net\.mir:2:\d+: error: resource 'w' is not in the text and the weights file .*net\.safetensors does not exist", None),
    "not a type": (program("%y = nn.relu %x : (tensor<4x8xf31>) -> tensor<4x8xf32>"), r"net\.mir:2:\d+: error: ", None),
    "enormous": (program(RELU).replace("4x8", "99999999999x99999999999", 1), r"net\.mir:1:\d+: error: ", None),
    "long number": (program("%y = arith.constant dense<" + "1" * 5000 + "> : tensor<4x8xf32>"), r"net\.mir:2:\d+: error: ", None),
    "no function": ("", r"(net\.mir: )?error: the program has no function @main", None),
}  # fmt: skip


ENDLESS = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %many = arith.constant 1152921504606846976 : index
  %y = scf.for %i = %zero to %many step %one iter_args(%z = %x) -> (tensor<4xf32>) {
    %e = nn.exp %z : (tensor<4xf32>) -> tensor<4xf32>
    scf.yield %e : tensor<4xf32>
  }
  return %y : tensor<4xf32>
}
"""


def mdsl(*args: object, input: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(input))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command([str(a) for a in args])
    finally:
        sys.stdin = stdin
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.mir").write_text(GOOD)
    return tmp_path


def refused(*args: object, message: str, input: bytes = b"") -> str:
    """Runs the command, which must fail cleanly with a message that the pattern matches."""
    before = sorted(Path().iterdir())
    code, out, err = mdsl(*args, input=input)
    assert code == 1, (code, out, err)
    assert re.search(message, err), err
    assert out == ""
    assert sorted(Path().iterdir()) == before, "a file was left behind"
    return err


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    text, message, marked = TEXTS[name]
    Path("net.mir").write_text(text)
    err = refused("run", "net.mir", "-o", "out.npz", message=message)
    if "net.mir:" in err:
        first, line, caret = err.rstrip("\n").split("\n")
        whole = text.split("\n")[int(first.split(":")[1]) - 1]
        assert line in whole and len(line) >= min(len(whole), 400)
        assert re.fullmatch(r"[ \t]*\^+", caret)
        if marked is not None:
            start = caret.index("^")
            assert line[start : start + len(caret.strip())] == marked
    refused("compile", "net.mir", message=message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "none.mir"], r"none\.mir: error: cannot read the file: No such file"),
        (["run", "."], r"\.: error: cannot read the file: Is a directory"),
        (["dis", "none.mbc"], r"none\.mbc: error: No such file"),
        (["dis", "good.mir"], r"good\.mir: error: .*\(at byte 0\)"),
        (["opt", "good.mir", "--tyle=4"], r"error: no option or pass '--tyle'; did you mean '--tile'\?"),
        (["opt", "good.mir", "--no-winograd"], r"error: no option or pass '--no-winograd': only the passes that are given run"),
        (["opt", "good.mir", "--tile", "4x16"], r"^error: a pass takes its value after '=': --tile=4x16$"),
        (["opt", "--unroll-dispatch", "4", "good.mir"], r"^error: a pass takes its value after '=': --unroll-dispatch=4$"),
        (["opt", "good.mir", "--tile=4xq"], r"command line:1:8: error: option 'sizes' of pass 'tile' takes integers .*, got '4xq'"),
        (["opt", "good.mir", "--inline=4"], r"command line:1:10: error: pass 'inline' takes no options"),
        (["opt", "good.mir", "--pass-pipeline=tile{size=4}"], r"--pass-pipeline:1:6: error: pass 'tile' has no option 'size'; did you mean 'sizes'\?"),
        (["opt", "good.mir", "--pass-pipeline=tile{sizes=[4,8]},fusee"], r"--pass-pipeline:1:19: error: unknown pass 'fusee'; did you mean 'fuse'\?"),
        (["opt", "good.mir", "--pass-pipeline=tile{sizes=[4"], r"--pass-pipeline:1:\d+: error: "),
        (["opt", "good.mir", "--pass-pipeline=,"], r"--pass-pipeline:1:1: error: unknown pass ''; passes: inline, "),
        (["opt", "good.mir", "--target=z80"], r"error: unknown target 'z80'; known targets: host, "),
        (["opt", "good.mir", "-o", "none/out.mir"], r"none/out\.mir: error: cannot write: No such file"),
        (["compile", "good.mir", "-o", "none/out.mbc"], r"none/out\.mbc: error: cannot write: No such file"),
        (["compile", "good.mir", "-o", "."], r"error: cannot write: "),
        (["run", "good.mir", "-o", "none/out.npz"], r"none/out\.npz: error: cannot write: No such file"),
        (["run", "good.mir", "--engine=vn"], r"error: unknown engine 'vn' \(engines: vm, jit, reference\)"),
        (["run", "good.mir", "--seed=-1"], r"Invalid value for '--seed'"),
        (["opt", "good.mir", "-o", "."], r"error: cannot write: "),
        (["run", "good.mir", "--threads=0"], r"error: threads must be from 1"),
        (["run", "good.mir", "--unroll-dispatch=0"], r"^error: --unroll-dispatch must be an integer, at least 1, got 0"),
        (["run", "good.mir", "--input", "y=4x8xf32=1"], r"error: --input y=4x8xf32=1: no input 'y'.* \(inputs: x\)"),
        (["run", "good.mir", "--input", "4x9xf32=1"], r"error: --input 4x9xf32=1: input 'x' is 4x8xf32, not 4x9xf32"),
        (["run", "good.mir", "--input", "4x8xf64=1"], r"error: --input 4x8xf64=1: input 'x' is 4x8xf32, not 4x8xf64"),
        (["run", "good.mir", "--input", "4x8xf32=one"], r"error: --input 4x8xf32=one: 'one' is neither 'random' nor a number of type f32"),
        (["run", "good.mir", "--input", "4x8"], r"error: --input 4x8: expected NAME=x\.npy, x\.npz, "),
        (["run", "good.mir", "--input", "none.npy"], r"none\.npy: error: No such file"),
        (["run", "good.mir", "--input", "x=broken.npz"], r"error: --input x=broken\.npz: not a readable NumPy file"),
        (["run", "good.mir", "--input", "header.npy"], r"error: --input header\.npy: not a readable NumPy file"),
        (["run", "good.mir", "--input", "float64.npy"], r"error: input 'x' must be 4x8xf32, got an array of dtype float64; convert it with \.astype\('float32'\)"),
        (["run", "good.mir", "--input", "wide.npy"], r"error: input 'x' must be 4x8xf32, got an array of shape 4x9"),
        (["run", "good.mir", "--input", "x=two.npz"], r"error: --input x=two\.npz: no array 'x' in the file \(it has a, b\)"),
        (["run", "good.mir", "--input", "4x8xf32=1", "--input", "4x8xf32=2"], r"error: --input 4x8xf32=2: input 'x' was given twice"),
        (["compile", "-"], r"error: "),
        (["run", "good.mbc", "--tune"], r"^good\.mbc: error: --tune cannot be chosen any more: the program is compiled"),
        (["run", "good.mbc", "--no-winograd", "--bind=n=4"], r"^good\.mbc: error: --no-winograd, --bind cannot be chosen"),
        (["bench", "good.mbc", "--profile", "--no-winograd"], r"^good\.mbc: error: --no-winograd cannot be chosen"),
        (["run", "good.mbc", "--pass-pipeline=fuse"], r"^good\.mbc: error: --pass-pipeline cannot be chosen"),
        (["run", "good.mir", "--pass-pipeline=fusee"], r"^--pass-pipeline:1:1: error: unknown pass 'fusee'"),
        (["run", "vm.mir", "--unroll-dispatch=4", "--no-ukernels"], r"^vm\.mir: error: --no-ukernels, --unroll-dispatch cannot be chosen any more: the program is on the vm level\n$"),
        (["run", "kernels.mir", "--no-ukernels"], r"^kernels\.mir: error: --no-ukernels cannot be chosen any more: the program is on the kernels level"),
        (["run", "dispatch.mir", "--tune", "--no-winograd"], r"^dispatch\.mir: error: --no-winograd, --tune cannot be chosen any more: the program is on the dispatch level"),
        (["bench", "buffers.mir", "--no-ukernels"], r"^buffers\.mir: error: --no-ukernels cannot be chosen any more"),
        (["compile", "vm.mir", "--tune", "--emit=asm"], r"^vm\.mir: error: --tune cannot be chosen any more"),
        (["bench", "vm.mir", "--ablation"], r"^vm\.mir: error: the ablation compiles the program in several ways"),
        (["bench", "kernels.mir", "--ablation"], r"^kernels\.mir: error: the ablation compiles"),
        (["bench", "buffers.mir", "--ablation"], r"^buffers\.mir: error: the ablation compiles"),
        (["bench", "dispatch.mir", "--ablation", "--tune"], r"^dispatch\.mir: error: the ablation compiles"),
        (["bench", "good.mir", "--json", "none/figures.json"], r"^none/figures\.json: error: cannot write: No such file"),
        (["run", "good.mir", "-o", "out"], r"^out: error: outputs are written as \.npz or, if there is one, as \.npy"),
        (["run", "good.mir", "-o", "out.txt"], r"^out\.txt: error: outputs are written as \.npz"),
        (["run", "two.mir", "-o", "out.npy"], r"^out\.npy: error: a \.npy file holds one array, and there are 2 outputs"),
        (["run", "vector.mir"], r"vector\.mir:1:1: error: input %x is of type vector<4xf32>"),
        (["run", "vector.mir", "--input=1"], r"vector\.mir:1:1: error: input %x is of type vector<4xf32>"),
        (["run", "two.mir", "--input", "random"], r"error: --input random: say which input it is \(NAME=\.\.\.\): x, v"),
        (["run", "two.mir", "--input", "x=4x8xf32=1,v=4x8xf32=2"], r"'1,v=4x8xf32=2' is neither .*; for several inputs write --input several times"),
        (["run", "two.mir", "--input", "x=1,v=2"], r"expected NAME=x.npy, .*; for several inputs write --input several times"),
        (["run", "two.mir", "--input", "x=a.npy,v=b.npy"], r"there is no file 'a\.npy,v=b\.npy'; for several inputs write --input several times"),
        (["bench", "good.mbc", "--ablation"], r"good\.mbc: error: "),
        (["bench", "good.mir", "--profile", "--engine=jit"], r"error: --engine means nothing with --profile"),
        (["bench", "good.mir", "--ablation", "--no-ukernels", "--rounds=2"], r"error: --no-ukernels, --rounds means nothing with --ablation"),
        (["bench", "good.onnx", "--vs=all", "--runs=2"], r"error: --runs means nothing with --vs"),
        (["bench", "good.mir", "--rounds=2"], r"error: --rounds means nothing without --vs"),
        (["bench", "good.mir", "--ablation", "--profile"], r"error: --ablation and --profile are two measurements: choose one"),
        (["compile", "good.mir", "--target=z80"], r"error: unknown target 'z80'; known targets: host, "),
        (["ops", "nn.conv3d"], r"error: no operation or dialect 'nn\.conv3d'; did you mean 'nn\.conv2d'\?"),
        (["frobnicate"], r"No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_command_line(args: list[str], message: str) -> None:
    np.save("float64.npy", np.zeros((4, 8)))
    np.save("wide.npy", np.zeros((4, 9), np.float32))
    np.savez("two.npz", a=np.zeros(1), b=np.zeros(1))
    Path("broken.npz").write_bytes(b"PK\x03\x04 not really")
    if any(name.endswith(".mir") and name != "good.mir" for name in args):
        _more_programs()
    Path("header.npy").write_bytes(b"\x93NUMPY\x01\x00\x06\x00{(((((")
    refused(*args, message=message, input=b"func.func")


def _more_programs() -> None:
    """Lowered ones, named by their levels, one of two inputs and outputs, and one of no tensors."""
    for level, step in (
        ("dispatch", "outline-ukernels"),
        ("buffers", "bufferize"),
        ("kernels", "vectorize"),
        ("vm", "lower-vm"),
    ):
        assert mdsl("opt", f"--{step}", "good.mir", "-o", f"{level}.mir")[0] == 0
    Path("two.mir").write_text(
        GOOD.replace(
            ") -> tensor<4x8xf32> {", ", %v: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {"
        ).replace("return %y : tensor<4x8xf32>", "return %y, %v : tensor<4x8xf32>, tensor<4x8xf32>")
    )
    Path("vector.mir").write_text(
        "func.func @main(%x: vector<4xf32>) -> vector<4xf32> {\n  return %x : vector<4xf32>\n}\n"
    )


# What must be known before the program is compiled: each of these is refused without compiling it.
EARLY = [
    ["run", "good.mir", "-o", "none/out.npz"],
    ["run", "good.mir", "-o", "."],
    ["run", "good.mir", "-o", "out.txt"],
    ["run", "good.mir", "--input", "none.npy"],
    ["run", "good.mir", "--input", "y=4x8xf32=1"],
    ["run", "good.mir", "--input", "4x9xf32=1"],
    ["run", "good.mir", "--engine=vn"],
    ["bench", "good.mir", "--input", "y=random"],
    ["bench", "good.mir", "--json", "none/figures.json"],
    ["bench", "good.mir", "--json", "."],
    ["compile", "good.mir", "-o", "none/out.mbc"],
]


@pytest.mark.parametrize("args", EARLY, ids=" ".join)
def test_refused_before_compiling(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: object, **__: object) -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(driver, "to_bytecode", compiled)
    refused(*args, message="error: ")


def test_weights() -> None:
    text = program("%y = arith.constant dense_resource<weight> : tensor<4x8xf32>")
    Path("net.mir").write_text(text)
    weights = Path("net.safetensors")
    header = b'{"weigth":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]}}'
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    refused(
        "run",
        "net.mir",
        message=r"net\.mir:2:\d+: error: no tensor 'weight' in .*net\.safetensors; did you mean 'weigth'\?",
    )
    header = b'{"weight":{"dtype":"F32","shape":[8,4],"data_offsets":[0,128]}}'
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    refused(
        "run",
        "net.mir",
        message=r"net\.mir:2:\d+: error: resource 'weight' is a tensor<8x4xf32>, not a tensor<4x8xf32>",
    )
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
    refused("run", "net.mir", message=r"net\.safetensors: error: not a readable \.safetensors file")
    weights.write_bytes(b"short")
    refused("run", "net.mir", message=r"net\.safetensors: error: not a readable \.safetensors file")


def test_a_word_as_long_as_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with it is said before and behind it."""
    (tmp_path / "net.mir").write_text(program(RELU.replace("%x", f"%{'x' * 100_000}")))
    assert command(["opt", str(tmp_path / "net.mir")]) == 1
    message = capsys.readouterr().err.splitlines()[0]
    assert ":2:16: error: %xxx" in message and message.endswith("xxx is not defined") and len(message) < 2000


def test_text_that_is_not_text() -> None:
    Path("net.mir").write_bytes(b"func.func \xff\xfe")
    refused("run", "net.mir", message=r"net\.mir: error: not a text file \(byte 10 is not UTF-8\)")
    refused("opt", "-", message=r"<stdin>: error: not a text file \(byte 0 is not UTF-8\)", input=b"\xff")


def test_bytecode() -> None:
    assert mdsl("compile", "good.mir")[0] == 0
    data = Path("good.mbc").read_bytes()
    version = data[:8] + (99).to_bytes(4, "little") + data[12:]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x40
    broken = {
        "empty": (b"", r"\(at byte 0\)"),
        "truncated": (data[: len(data) // 2], r"\(at byte \d+\)"),
        "header": (data[:20], r"\(at byte \d+\)"),
        "altered": (bytes(flipped), r"\(at byte \d+\)"),
        "version": (version, r"version 99.*\(at byte 8\)"),
        "magic": (b"x" + data[1:], r"\(at byte 0\)"),
    }
    for name, (content, message) in broken.items():
        Path("bad.mbc").write_bytes(content)
        for verb in ("run", "dis"):
            err = refused(verb, "bad.mbc", message=rf"bad\.mbc: error: .*{message}")
            assert err.count("\n") == 1, (name, err)


def test_a_place_that_is_a_node() -> None:
    """Where there is no line, a message begins with the name of the node."""
    act = 'loc("layer/act")'
    Path("net.mir").write_text(GOOD.replace("4x8", "?x8").replace("\n  return", f" {act}\n  return"))
    refused("opt", "net.mir", "--lower-nn", message=r"^node 'layer/act': error: pass 'lower-nn': ")


def test_nesting() -> None:
    Path("net.mir").write_text("module {\n" * 400 + "}\n" * 400)
    refused("opt", "net.mir", message=r"^net\.mir:400:8: error: regions are nested more than 100 deep\n")


def test_memory() -> None:
    Path("net.mir").write_text(GOOD.replace("4x8", "1000000000x1000"))
    refused("run", "net.mir", "--engine=reference", message=r"^error: not enough memory: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_an_output_is_written_where_it_is() -> None:
    """A pipe (as /dev/null, which root could replace) stays what it is, and so does a link."""
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert mdsl("opt", "good.mir", "-o", "pipe")[0] == 0
    assert b"nn.relu" in os.read(reader, 1000)
    os.close(reader)
    assert Path("pipe").is_fifo()
    Path("target.mir").write_text("old")
    Path("link.mir").symlink_to("target.mir")
    assert mdsl("opt", "good.mir", "-o", "link.mir")[0] == 0
    assert Path("link.mir").is_symlink() and "nn.relu" in Path("target.mir").read_text()


def test_byte_order_mark() -> None:
    Path("marked.mir").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert mdsl("opt", "marked.mir")[0] == mdsl("opt", "-", input=Path("marked.mir").read_bytes())[0] == 0


def test_an_output_of_any_name() -> None:
    Path("net.mir").write_text(GOOD.replace("%y", "%file"))
    assert mdsl("run", "net.mir", "-o", "out.npz")[0] == 0
    with np.load("out.npz") as arrays:
        assert arrays["file"].shape == (4, 8)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_interrupt(executes: None, engine: str) -> None:
    """A program of 2**60 trips ends at Ctrl-C."""
    Path("net.mir").write_text(ENDLESS)
    args = [sys.executable, "-m", "mdsl", "run", "net.mir", "--engine", engine]
    # Who runs in a shell's background is born deaf to Ctrl-C.
    listening = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as running:
        try:
            assert running.stderr is not None
            running.stderr.readline()  # the note about its inputs: it is compiled
            time.sleep(0.3)
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 130
            assert running.stderr.read() == "interrupted\n"
        finally:
            running.kill()


def test_an_output_that_fails_keeps_the_old_file() -> None:
    Path("out.mir").write_text("old")
    Path("net.mir").write_text(TEXTS["unknown op"][0])
    refused("opt", "net.mir", "--canonicalize", "-o", "out.mir", message="unknown operation")
    assert Path("out.mir").read_text() == "old"
