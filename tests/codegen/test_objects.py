"""Object files are loaded without LLVM, and what is not understood is left to JITLink."""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdsl.codegen import objects
from mdsl.codegen.kernels import Kernels, load_kernels
from mdsl.codegen.native import compile_module, to_object
from mdsl.target import processor
from mdsl.target.target import Target

here = pytest.mark.skipif(
    sys.platform != "linux" or processor.architecture() != "x86_64" or not Target.host().runs_here,
    reason="elsewhere JITLink loads every object",
)

MODULE = """
declare double @pow(double, double)
@count = internal global i64 0
@kept = internal global i64 5
@numbers = internal constant [4 x double] [double 1.0, double 2.0, double 4.0, double 8.0]
@table = internal constant [2 x ptr] [ptr @twice, ptr @square]
define internal double @twice(double %x) {
  %y = fadd double %x, %x
  ret double %y
}
define internal double @square(double %x) {
  %y = call double @pow(double %x, double 2.0)
  ret double %y
}
define double @apply(i64 %which, double %x) {
  %at = getelementptr ptr, ptr @table, i64 %which
  %f = load volatile ptr, ptr %at
  %y = call double %f(double %x)
  ret double %y
}
define double @power(double %x, double %n) {
  %y = call double @pow(double %x, double %n)
  ret double %y
}
define double @number(i64 %i) {
  %at = getelementptr double, ptr @numbers, i64 %i
  %y = load volatile double, ptr %at
  ret double %y
}
define i64 @counted() {
  %n = load volatile i64, ptr @count
  %m = add i64 %n, 1
  store volatile i64 %m, ptr @count
  %k = load volatile i64, ptr @kept
  %s = add i64 %m, %k
  ret i64 %s
}
"""
EXPORTS = ["apply", "power", "number", "counted"]
DOUBLE, WORD = ctypes.c_double, ctypes.c_int64


@here
def test_code_constants_variables_and_calls() -> None:
    image = to_object(MODULE, Target.host())
    one, other = objects.load(image, EXPORTS), objects.load(image, EXPORTS)
    assert one is not None and other is not None
    assert ctypes.CFUNCTYPE(DOUBLE, WORD, DOUBLE)(one["apply"])(0, 3.0) == 6
    assert ctypes.CFUNCTYPE(DOUBLE, WORD, DOUBLE)(one["apply"])(1, 3.0) == 9
    assert ctypes.CFUNCTYPE(DOUBLE, DOUBLE, DOUBLE)(one["power"])(3.0, 3.0) == 27
    assert [ctypes.CFUNCTYPE(DOUBLE, WORD)(one["number"])(i) for i in range(4)] == [1, 2, 4, 8]
    assert [ctypes.CFUNCTYPE(WORD)(one["counted"])() for _ in range(3)] == [6, 7, 8]
    assert ctypes.CFUNCTYPE(WORD)(other["counted"])() == 6


@here
def test_code_is_not_writable() -> None:
    loaded = objects.load(to_object(MODULE, Target.host()), EXPORTS)
    assert loaded is not None
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= loaded["apply"] < end:
            assert line.split()[1] == "r-xp"


@here
@pytest.mark.parametrize(
    "text",
    ["@environ = external global ptr\ndefine ptr @f() {\n %y = load ptr, ptr @environ\n ret ptr %y\n}",
     "declare void @no_such_function()\ndefine void @f() {\n call void @no_such_function()\n ret void\n}",
     "define void @g() {\n ret void\n}"],
    ids=["data of another library", "no such function", "no such export"],
)  # fmt: skip
def test_the_rest_is_left_to_jitlink(text: str) -> None:
    assert objects.load(to_object(text, Target.host()), ["f"]) is None


@here
def test_what_is_left_to_jitlink_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    monkeypatch.setattr(sys, "platform", "another")
    code = compile_module(MODULE, EXPORTS)
    assert ctypes.CFUNCTYPE(DOUBLE, WORD, DOUBLE)(code.address("apply"))(1, 3.0) == 9


@here
def test_damaged_objects_are_refused_or_loaded() -> None:
    """They are never executed, for the cache has checksums; reading them raises nothing, and writes nothing elsewhere."""
    image, chance = to_object(MODULE, Target.host()), random.Random(0)
    for size in range(0, len(image), 97):
        assert objects.load(image[:size], EXPORTS) is None
    for _ in range(400):
        damaged = bytearray(image)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        objects.load(bytes(damaged), EXPORTS)


@here
def test_a_program_in_the_cache_runs_without_llvm(tmp_path: Path) -> None:
    (tmp_path / "net.mir").write_text(
        "func.func @main(%x: tensor<4x40xf32>) -> tensor<4x40xf32> {\n"
        "  %y = nn.exp %x : (tensor<4x40xf32>) -> tensor<4x40xf32>\n  return %y : tensor<4x40xf32>\n}"
    )
    script = (
        "import sys, numpy, mdsl\n"
        "if 'first' in sys.argv:\n    from mdsl.compiler import program_cache\n    program_cache._WORTH_KEEPING = 0\n"
        "mdsl.compile('net.mir')(numpy.ones((4, 40), 'f'))\nprint('llvmlite.binding' in sys.modules)"
    )
    for arguments in (["first"], []):
        command = [sys.executable, "-c", script, *arguments]
        loaded = subprocess.check_output(command, cwd=tmp_path, text=True).strip()
    assert loaded == "False"


def _adding(number: float) -> bytes:
    """An object whose function adds a number, which lies in its constants."""
    text = f"define double @f(double %x) {{\n  %y = fadd double %x, {number}\n  ret double %y\n}}\n"
    return to_object(text, Target.host())


@here
def test_objects_are_joined() -> None:
    joined = objects.join({"one": _adding(1.0), "three": _adding(3.0)}, "f")
    assert joined is not None
    loaded = objects.load(joined, ["one", "three"])
    assert loaded is not None
    assert [ctypes.CFUNCTYPE(DOUBLE, DOUBLE)(loaded[name])(4.0) for name in ("one", "three")] == [5, 7]
    assert objects.load(joined, ["two"]) is None


@here
def test_joined_objects_call_functions_of_the_process() -> None:
    text = "declare double @pow(double, double)\ndefine double @f(double %x) {\n"
    text += "  %y = call double @pow(double %x, double 3.5)\n  %z = fadd double %y, 1.0\n  ret double %z\n}\n"
    joined = objects.join({"one": _adding(1.0), "power": to_object(text, Target.host())}, "f")
    assert joined is not None
    loaded = objects.load(joined, ["one", "power"])
    assert loaded is not None
    assert [ctypes.CFUNCTYPE(DOUBLE, DOUBLE)(loaded[name])(4.0) for name in ("one", "power")] == [5, 129]


@here
def test_what_depends_on_its_place_is_not_joined() -> None:
    """Variables, and tables of addresses."""
    assert objects.join({"f": to_object(MODULE, Target.host())}, "apply") is None
    assert objects.join({"f": b"no object"}, "f") is None


@here
def test_joined_code_that_is_damaged_is_refused_or_loaded() -> None:
    joined = objects.join({"one": _adding(1.0)}, "f")
    assert joined is not None
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(joined)
        damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        objects.load(bytes(damaged), ["one"])
        objects.load(joined[: generator.randrange(len(joined))], ["one"])


KERNEL = """ukernel.func @k{0}(%x: memref<1xf32>) {{
  %zero = arith.constant 0 : index
  %number = arith.constant {0}.5 : f32
  memref.store %number, %x[%zero] : memref<1xf32>
  ukernel.return
}}"""


def _written(kernels: Kernels) -> list[float]:
    """What each of the kernels writes."""
    out = np.zeros((len(kernels.addresses), 1), np.float32)
    for row, address in zip(out, kernels.addresses.values(), strict=True):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(WORD(row.ctypes.data)))
    return out.ravel().tolist()


@here
def test_many_kernels_are_read_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one by one where that is damaged, or some are others."""
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    sources = {f"k{n}": KERNEL.format(n) for n in range(8)}
    first, again = load_kernels(sources), load_kernels(sources)
    pieces = [len({id(code) for code in kernels.code.values()}) for kernels in (first, again)]
    assert pieces == [8, 1] and again.signatures == first.signatures
    assert _written(first) == _written(again) == [n + 0.5 for n in range(8)]
    other = load_kernels(sources | {"k7": KERNEL.replace("k{0}", "k7").format(9)})
    assert _written(other)[-1] == 9.5
    del again
    joined = [p for p in tmp_path.glob("*/*") if b"mdsl-joined-code" in p.read_bytes()]
    for path in joined:
        path.write_bytes(path.read_bytes()[:-1])
    assert len(joined) == 2
    assert _written(load_kernels(sources)) == _written(first)
