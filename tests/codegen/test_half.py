"""The conversions that stand in for a processor's own, on every f16 and at every f32 where the rounding turns."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from mdsl.codegen import half
from mdsl.codegen.native import compile_module, to_assembly
from mdsl.target.target import Target

LOOP = """
define void @{name}(ptr %to, ptr %from, i64 %count) {{
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  %source = getelementptr {source}, ptr %from, i64 %i
  %destination = getelementptr {result}, ptr %to, i64 %i
  %x = load {source}, ptr %source
  %y = call {result} @{function}({source} %x)
  store {result} %y, ptr %destination
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}}
"""


def _loop(name: str, function: str, source: str, result: str) -> str:
    return LOOP.format(name=name, function=function, source=source, result=result)


@pytest.fixture(scope="module")
def convert() -> Callable[[np.ndarray], np.ndarray]:
    loops = _loop("extend", "__extendhfsf2", "half", "float") + _loop(
        "truncate", "__truncsfhf2", "float", "half"
    )
    code = compile_module(half.LLVM_IR + loops, ["extend", "truncate"])

    def call(array: np.ndarray) -> np.ndarray:
        widens = array.dtype == np.float16
        found = np.empty(array.shape, np.float32 if widens else np.float16)
        address = code.address("extend" if widens else "truncate")
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        signature(address)(found.ctypes.data, array.ctypes.data, array.size)
        return found

    return call


def test_every_f16_as_f32_and_back(convert: Callable[[np.ndarray], np.ndarray]) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = convert(every)
    numbers = ~np.isnan(every)
    np.testing.assert_array_equal(
        wide[numbers].view(np.int32), every[numbers].astype(np.float32).view(np.int32)
    )
    assert np.isnan(wide[~numbers]).all() and (wide[~numbers].view(np.int32) & 1 << 22).all()
    back = convert(wide).view(np.uint16)
    np.testing.assert_array_equal(back, every.view(np.uint16) | np.where(numbers, 0, 0x200).astype(np.uint16))


def test_rounding(convert: Callable[[np.ndarray], np.ndarray]) -> None:
    """Around every f16 and every number half way between two, and where f16 ends."""
    finite = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    finite[-1] = 65536
    turns = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2]).astype(np.float32)
    bits = turns.view(np.int32)[:, None] + np.arange(-2, 3, dtype=np.int32)
    tried = (
        np.concatenate([bits.clip(0).ravel(), [1, 0x7F7FFFFF, 0x7F800000]]).astype(np.int32).view(np.float32)
    )
    for x in (tried, -tried):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(convert(x).view(np.uint16), x.astype(np.float16).view(np.uint16))


def test_code_that_calls_them_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the host without f16 instructions, of whatever processor."""
    if Target.host().architecture != "x86_64":
        pytest.skip("every other processor that is known has the instructions")
    monkeypatch.setenv("MDSL_HOST", "x86-64")
    body = "define float @f(float %x) {\n %h = fptrunc float %x to half\n %y = fpext half %h to float\n ret float %y\n}"
    assert all(name in to_assembly(body, Target.host()) for name in half.NAMES)
    code = compile_module(body, ["f"])
    assert ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(code.address("f"))(1.0004) == np.float32(
        np.float16(1.0004)
    )
