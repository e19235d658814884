"""Machine code for another x86 processor than this one runs on that processor: emulated by qemu in user mode, which ends a
program at an instruction that its processor does not have. Debian: qemu-user, or qemu-user-static; and a C compiler.
Without these, the text of the code is looked at.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.mca.kernels import assembly
from mdsl import api
from mdsl.codegen.kernel import to_llvm_ir
from mdsl.codegen.native import to_object
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.target.target import TARGETS

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
CC = shutil.which("cc")

PROCESSORS = [
    ("x86-64", "qemu64,-sse3,-cx16,-popcnt"),
    ("x86-64-v2", "Nehalem"),
    ("avx2", "Haswell"),
    ("haswell", "Haswell"),
    ("skylake", "Skylake-Client"),
    ("alderlake", "max"),
    ("znver2", "EPYC-Rome"),
    ("znver3", "EPYC-Milan"),
]
"""Targets and processors that can run them, in qemu's names. (It emulates no AVX-512.)"""

KERNEL = """
ukernel.func @kernel(%a: memref<5x16xf32>, %b: memref<16x32xf32>, %y: memref<5x32xf32>) {
  %zero = arith.constant 0.0 : f32
  %acc = memref.alloca() : memref<5x32xf32>
  linalg.fill ins(%zero : f32) outs(%acc : memref<5x32xf32>)
  linalg.matmul ins(%a, %b : memref<5x16xf32>, memref<16x32xf32>) outs(%acc : memref<5x32xf32>)
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
      ins(%acc : memref<5x32xf32>) outs(%y : memref<5x32xf32>) {
  ^bb0(%x: f32, %out: f32):
    %positive = arith.maximumf %x, %zero : f32
    %e = math.exp %positive : f32
    linalg.yield %e : f32
  }
  ukernel.return
}
"""

DRIVER = """
#include <stdio.h>
static float a[5 * 16], b[16 * 32], y[5 * 32];
void kernel(void **slots);
int main(void) {
  for (int i = 0; i < 80; ++i) a[i] = (i % 7 - 3) / 8.0f;
  for (int i = 0; i < 512; ++i) b[i] = (i % 5 - 2) / 8.0f;
  void *slots[] = {a, b, y};
  kernel(slots);
  return fwrite(y, sizeof y, 1, stdout) != 1;
}
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory):
    """Runs the kernel of one target on a processor."""
    if QEMU is None or CC is None:
        pytest.skip("needs qemu's emulation of x86-64 for programs, and a C compiler")
    folder = tmp_path_factory.mktemp("emulated")

    def run(target: str, processor: str) -> subprocess.CompletedProcess[bytes]:
        program = _program(target, folder)
        return subprocess.run([QEMU, "-cpu", processor, program], capture_output=True, check=False)

    return run


def _program(name: str, folder: Path) -> Path:
    target = TARGETS[name]
    (kernel,) = (
        op for op in api.opt(KERNEL, "vectorize", target=target).body.ops if isinstance(op, UkernelFunc)
    )
    (folder / f"{name}.o").write_bytes(to_object(to_llvm_ir(kernel, target=target), target))
    (folder / "driver.c").write_text(DRIVER)
    program = folder / name
    command = [CC, "-O0", "-static", "-o", program, folder / "driver.c", folder / f"{name}.o", "-lm"]
    subprocess.run(command, check=True)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(("target", "processor"), PROCESSORS, ids=[target for target, _ in PROCESSORS])
def test_runs_on_its_processor(emulated, target: str, processor: str) -> None:
    ended = emulated(target, processor)
    assert ended.returncode == 0, ended.stderr
    a = ((np.arange(80) % 7 - 3) / 8).reshape(5, 16)
    b = ((np.arange(512) % 5 - 2) / 8).reshape(16, 32)
    found = np.frombuffer(ended.stdout, np.float32).reshape(5, 32)
    np.testing.assert_allclose(found, np.exp(np.maximum(a @ b, 0)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "processor"), [("avx2", "Nehalem"), ("x86-64-v2", "qemu64,-sse3,-ssse3,-sse4.1,-sse4.2")]
)
def test_ends_where_instructions_are_missing(emulated, target: str, processor: str) -> None:
    """So the test above notices an instruction too much."""
    assert emulated(target, processor).returncode != 0


NEWER = {
    "x86-64": r"\t(v[a-z]+|[a-z]*blendv?p[sd]|insertps|extractps|round[ps]s|pmulld|pm(in|ax)s[bd]|pmov[sz]x\w+|mov(sh|sl|d)dup|pshufb|"
    r"palignr|pinsr[bdq]|pextr[bdq]|ptest|h(add|sub)p[sd]|popcnt\w*)\t",
    "x86-64-v2": r"\tv[a-z]+|%ymm",
    "x86-64-v3": r"%zmm|%[xy]mm(1[6-9]|[23]\d)|%k\d|\{1to",
    "generic": r"\b[zp]\d+\.|/[zm]\b",
}
"""What only later levels have, by the level of LLVM's: SSE3 and later, AVX, AVX-512, SVE."""


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.cpu in NEWER])
@pytest.mark.parametrize("program", ["matmul", "softmax"])
def test_instructions_are_of_the_level(name: str, program: str) -> None:
    target = TARGETS[name]
    code = "\n".join(assembly(program, target))
    assert not re.findall(NEWER[target.cpu], code)


def test_later_levels_are_noticed() -> None:
    for older, newer in [("x86-64", "x86-64-v2"), ("x86-64-v2", "avx2"), ("x86-64-v3", "avx512")]:
        assert re.search(NEWER[older], "\n".join(assembly("softmax", TARGETS[newer])))
