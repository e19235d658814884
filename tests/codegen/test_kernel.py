"""Micro-kernels: from text to native code, against NumPy."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import mdsl
from mdsl.codegen.kernel import to_llvm_ir
from mdsl.codegen.kernels import Kernels, compile_kernels, load_kernels
from mdsl.codegen.native import to_assembly
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import VerifyError
from mdsl.ir.verifier import verify
from mdsl.support import cache
from mdsl.syntax.parser import parse
from mdsl.target.target import Target
from mdsl.vm.memory import guarded


def kernel(arguments: str, body: str) -> UkernelFunc:
    module = parse(f"ukernel.func @k({arguments}) {{\n{body}\nukernel.return\n}}", "test")
    verify(module)
    (func,) = module.body.ops
    assert isinstance(func, UkernelFunc)
    return func


def call(kernels: Kernels, *arguments: np.ndarray | int, name: str = "k") -> None:
    slots = [argument if isinstance(argument, int) else argument.ctypes.data for argument in arguments]
    array = (ctypes.c_int64 * len(slots))(*slots)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernels.addresses[name])(ctypes.addressof(array))


def run(arguments: str, body: str, *values: np.ndarray | int) -> None:
    call(compile_kernels([kernel(arguments, body)]), *values)


def matmul_text(rows: int, depth: int, columns: int, name: str = "mm", lanes: int = 16) -> str:
    """C += A B on packed operands, as the passes shape it: all of C in registers over the whole depth."""
    vector = f"vector<{lanes}xf32>"
    tiles = [(row, column) for row in range(rows) for column in range(0, columns, lanes)]
    types = ", ".join([vector] * len(tiles))
    a, b, c = f"memref<{depth}x{rows}xf32>", f"memref<{depth}x{columns}xf32>", f"memref<{rows}x{columns}xf32>"
    lines = [f"ukernel.func @{name}(%a: {a}, %b: {b}, %c: {c}) {{"]
    lines += [f"  %i{i} = arith.constant {i} : index" for i in range(max(rows, columns))]
    lines += [f"  %depth = arith.constant {depth} : index"]
    lines += [f"  %c{m}_{n} = vector.load %c[%i{m}, %i{n}] : {c}, {vector}" for m, n in tiles]
    carried = ", ".join(f"%acc{m}_{n} = %c{m}_{n}" for m, n in tiles)
    lines += [f"  %r:{len(tiles)} = scf.for %k = %i0 to %depth step %i1 iter_args({carried}) -> ({types}) {{"]
    lines += [f"    %b{n} = vector.load %b[%k, %i{n}] : {b}, {vector}" for n in range(0, columns, lanes)]
    for m in range(rows):
        lines += [f"    %a{m} = memref.load %a[%k, %i{m}] : {a}"]
        lines += [f"    %v{m} = vector.broadcast %a{m} : f32 to {vector}"]
    lines += [f"    %n{m}_{n} = vector.fma %v{m}, %b{n}, %acc{m}_{n} : {vector}" for m, n in tiles]
    lines += [f"    scf.yield {', '.join(f'%n{m}_{n}' for m, n in tiles)} : {types}", "  }"]
    lines += [f"  vector.store %r#{i}, %c[%i{m}, %i{n}] : {c}, {vector}" for i, (m, n) in enumerate(tiles)]
    return "\n".join([*lines, "  ukernel.return", "}"])


@pytest.mark.parametrize(("rows", "depth", "columns"), [(14, 64, 32), (7, 33, 32), (4, 1, 16)])
def test_matmul(rows: int, depth: int, columns: int) -> None:
    kernels = load_kernels({"mm": matmul_text(rows, depth, columns)})
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=(depth, n)).astype(np.float32) for n in (rows, columns))
    c = generator.normal(size=(rows, columns)).astype(np.float32)
    expected = c + a.T @ b
    call(kernels, a, b, c, name="mm")
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5)
    assert [(use.kind, use.span) for use in kernels.signatures["mm"]] == [
        ("read", 4 * depth * rows),
        ("read", 4 * depth * columns),
        ("write", 4 * rows * columns),
    ]


def test_matmul_inner_loop_is_the_one_measured() -> None:
    """28 FMAs a step with the broadcasts as their memory operands: no shuffles, no spills, no unrolling."""
    (func,) = parse(matmul_text(14, 512, 32), "test").body.ops
    assert isinstance(func, UkernelFunc)
    target = Target.parse("avx512")
    assembly = to_assembly(to_llvm_ir(func, target=target), target)
    start = assembly.index("LBB0_1:")
    loop = assembly[
        start : assembly.index("jl\t", start) if "jl\t" in assembly[start:] else assembly.index("jne", start)
    ]
    assert loop.count("vfmadd") == 28
    assert loop.count("{1to16}") + loop.count("vbroadcastss") >= 14
    for unwanted in ("vperm", "vshuf", "(%rsp)", "vinsert"):
        assert unwanted not in loop


TYPES = {
    "f32": "f4",
    "f64": "f8",
    "f16": "f2",
    "bf16": ml_dtypes.bfloat16,
    "i8": "i1",
    "i32": "i4",
    "i1": "?",
}


def guarded_array(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy whose last byte (or first) is next to memory that may not be touched."""
    memory = guarded(array.nbytes, array.itemsize if at_end else mmap.PAGESIZE)
    copy = memory.view(array.dtype)
    copy[:] = array
    return copy


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.parametrize("element", TYPES)
def test_vectors_touch_nothing_beyond_their_elements(element: str) -> None:
    lengths = [1, 2, 3, 5, 7, 9, 13, 15, 16, 17, 24, 31]
    funcs = []
    for n in lengths:
        memory, vector = f"memref<{n}x{element}>", f"vector<{n}x{element}>"
        body = f"%z = arith.constant 0 : index\n%v = vector.load %a[%z] : {memory}, {vector}\n"
        func = kernel(f"%a: {memory}, %b: {memory}", body + f"vector.store %v, %b[%z] : {memory}, {vector}")
        func.attributes["sym_name"] = (
            parse(f"ukernel.func @k{n}() {{ ukernel.return }}", "t").body.ops[0].attributes["sym_name"]
        )
        funcs.append(func)
    kernels = compile_kernels(funcs)
    for n in lengths:
        values = np.random.default_rng(n).integers(0, 2 if element == "i1" else 100, n).astype(TYPES[element])
        for at_end in (True, False):
            source, target = guarded_array(values, at_end), guarded_array(np.zeros_like(values), at_end)
            call(kernels, source, target, name=f"k{n}")
            np.testing.assert_array_equal(target, values)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 19])
def test_reductions(length: int) -> None:
    floats = np.random.default_rng(1).normal(size=length).astype(np.float32)
    integers = np.random.default_rng(2).integers(-50, 50, length).astype(np.int32)
    cases = {
        "add": (floats, np.sum), "mul": (floats, np.prod), "minimumf": (floats, np.min),
        "maximumf": (floats, np.max), "minnumf": (floats, np.min), "maxnumf": (floats, np.max),
        "minsi": (integers, np.min), "maxsi": (integers, np.max), "and": (integers, np.bitwise_and.reduce),
        "or": (integers, np.bitwise_or.reduce), "xor": (integers, np.bitwise_xor.reduce),
    }  # fmt: skip
    for kind, (values, reference) in cases.items():
        element = "f32" if values is floats else "i32"
        output = np.zeros(2, values.dtype)
        run(
            f"%a: memref<{length}x{element}>, %o: memref<2x{element}>",
            f"""
            %z = arith.constant 0 : index
            %one = arith.constant 1 : index
            %v = vector.load %a[%z] : memref<{length}x{element}>, vector<{length}x{element}>
            %r = vector.reduction <{kind}>, %v : vector<{length}x{element}> into {element}
            %s = vector.reduction <{kind}>, %v, %r : vector<{length}x{element}> into {element}
            memref.store %r, %o[%z] : memref<2x{element}>
            memref.store %s, %o[%one] : memref<2x{element}>""",
            values,
            output,
        )
        twice = reference(np.array([reference(values), reference(values)]))
        np.testing.assert_allclose(output, [reference(values), twice], rtol=1e-5, err_msg=kind)


def test_control_flow() -> None:
    """Nested loops with carried scalars, loops that never run, branches with results."""
    output = np.zeros(4, np.int64)
    body = """
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c3 = arith.constant 3 : index
      %c10 = arith.constant 10 : index
      %zero = arith.constant 0 : i64
      %sum = scf.for %i = %c0 to %n step %c3 iter_args(%s = %zero) -> (i64) {
        %t = scf.for %j = %c0 to %i step %c1 iter_args(%u = %s) -> (i64) {
          %x = arith.index_cast %j : index to i64
          %v = arith.addi %u, %x : i64
          scf.yield %v : i64
        }
        scf.yield %t : i64
      }
      memref.store %sum, %o[%c0] : memref<4xi64>
      %big = arith.cmpi sgt, %n, %c10 : index
      %a, %b = scf.if %big -> (i64, i64) {
        scf.yield %sum, %zero : i64, i64
      } else {
        scf.yield %zero, %sum : i64, i64
      }
      memref.store %a, %o[%c1] : memref<4xi64>
      memref.store %b, %o[%c2] : memref<4xi64>
      scf.if %big {
        memref.store %sum, %o[%c3] : memref<4xi64>
      }
    """
    kernels = compile_kernels(
        [kernel("%n: index {mdsl.range = array<i64: -5, 20>}, %o: memref<4xi64>", body)]
    )
    for n in (-5, 0, 1, 7, 10, 11, 20):
        output[:] = -1
        call(kernels, n, output)
        total = sum(j for i in range(0, n, 3) for j in range(i))
        expected = [total, total if n > 10 else 0, 0 if n > 10 else total, total if n > 10 else -1]
        assert output.tolist() == expected, n


def test_affine_apply_rounds_down() -> None:
    output = np.zeros(4, np.int64)
    maps = ["d0 floordiv 7", "d0 mod 7", "d0 ceildiv 7", "d0 * 3 - d1 floordiv 4 + 5"]
    body = "".join(
        f"""
        %c{i} = arith.constant {i} : index
        %m{i} = affine.apply affine_map<(d0, d1) -> ({text})>(%a, %b)
        %v{i} = arith.index_cast %m{i} : index to i64
        memref.store %v{i}, %o[%c{i}] : memref<4xi64>"""
        for i, text in enumerate(maps)
    )
    kernels = compile_kernels([kernel("%a: index, %b: index, %o: memref<4xi64>", body)])
    for a in (-15, -14, -1, 0, 6, 7, 13, 100):
        for b in (-9, 0, 3):
            call(kernels, a, b, output)
            assert output.tolist() == [a // 7, a % 7, -(-a // 7), a * 3 - b // 4 + 5]


def test_views() -> None:
    """A strided argument, a subview at variable offsets, reshapes, a typed view of bytes."""
    source = np.arange(6 * 40, dtype=np.float32).reshape(6, 40)
    output = np.zeros((2, 3, 4), np.float32)
    rows, part = (
        f"memref<{shape}, strided<[{stride}, 1], offset: ?>>"
        for shape, stride in (("6x8xf32", 40), ("2x6xf32", 80))
    )
    run(
        f"%a: {rows}, %i: index {{mdsl.range = array<i64: 0, 2>}}, %o: memref<2x3x4xf32>",
        f"""
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c6 = arith.constant 6 : index
      %c64 = arith.constant 64 : index
      %s = memref.subview %a[%i, 2] [2, 6] [2, 1] : {rows} to {part}
      %bytes = memref.alloca() : memref<128xi8>
      %local = memref.view %bytes[%c64][] : memref<128xi8> to memref<2x6xf32>
      scf.for %r = %c0 to %c2 step %c1 {{
        scf.for %c = %c0 to %c6 step %c2 {{
          %v = vector.load %s[%r, %c] : {part}, vector<2xf32>
          vector.store %v, %local[%r, %c] : memref<2x6xf32>, vector<2xf32>
        }}
      }}
      %flat = memref.collapse_shape %local [[0, 1]] : memref<2x6xf32> into memref<12xf32>
      %out = memref.collapse_shape %o [[0, 1, 2]] : memref<2x3x4xf32> into memref<24xf32>
      %whole = vector.load %flat[%c0] : memref<12xf32>, vector<12xf32>
      vector.store %whole, %out[%c6] : memref<24xf32>, vector<12xf32>""",
        source[:, 3:],
        1,
        output,
    )
    expected = np.zeros(24, np.float32)
    expected[6:18] = source[1:5:2, 5:11].reshape(-1)
    np.testing.assert_array_equal(output.reshape(-1), expected)


def test_local_memory_begins_as_zeros() -> None:
    output = np.ones(32, np.float32)
    body = """
      %z = arith.constant 0 : index
      %t = memref.alloc() : memref<32xf32>
      %v = vector.load %t[%z] : memref<32xf32>, vector<32xf32>
      vector.store %v, %o[%z] : memref<32xf32>, vector<32xf32>"""
    run("%o: memref<32xf32>", body, output)
    assert not output.any()


@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_narrow_floats_round_after_each_op(element: str) -> None:
    generator = np.random.default_rng(5)
    x, y = (generator.normal(size=16).astype(TYPES[element]) for _ in range(2))
    output = np.zeros_like(x)
    memory, vector = f"memref<16x{element}>", f"vector<16x{element}>"
    run(
        f"%x: {memory}, %y: {memory}, %o: {memory}",
        f"""
      %z = arith.constant 0 : index
      %half = arith.constant dense<0.5> : {vector}
      %a = vector.load %x[%z] : {memory}, {vector}
      %b = vector.load %y[%z] : {memory}, {vector}
      %c = arith.mulf %a, %b : {vector}
      %d = arith.addf %c, %half : {vector}
      vector.store %d, %o[%z] : {memory}, {vector}""",
        x,
        y,
        output,
    )
    np.testing.assert_array_equal(output, x * y + x.dtype.type(0.5))


def test_masks_constants_and_elements() -> None:
    values = np.array([3.0, -1.0, np.nan, 0.0], np.float32)
    positive, output = np.zeros(4, bool), np.zeros(4, np.float32)
    run(
        "%x: memref<4xf32>, %p: memref<4xi1>, %o: memref<4xf32>, %flag: i1",
        """
      %z = arith.constant 0 : index
      %ramp = arith.constant dense<[0.5, 1.5, 2.5, 3.5]> : vector<4xf32>
      %zero = arith.constant dense<0.0> : vector<4xf32>
      %v = vector.load %x[%z] : memref<4xf32>, vector<4xf32>
      %m = arith.cmpf ogt, %v, %zero : vector<4xf32>
      vector.store %m, %p[%z] : memref<4xi1>, vector<4xi1>
      %back = vector.load %p[%z] : memref<4xi1>, vector<4xi1>
      %s = arith.select %back, %v, %ramp : vector<4xi1>, vector<4xf32>
      %e = vector.extract %ramp[3] : f32 from vector<4xf32>
      %n = arith.negf %e : f32
      %t = arith.select %flag, %n, %e : f32
      %r = vector.insert %t, %s [2] : f32 into vector<4xf32>
      vector.store %r, %o[%z] : memref<4xf32>, vector<4xf32>""",
        values,
        positive,
        output,
        1,
    )
    assert positive.tolist() == [True, False, False, False]
    assert output.tolist() == [3.0, 1.5, -3.5, 3.5]


@pytest.mark.parametrize("element", TYPES)
def test_shuffles_of_vectors_of_two_lengths(element: str) -> None:
    source, target = np.arange(6).astype(TYPES[element]), np.zeros(5, TYPES[element])
    run(
        f"%x: memref<6x{element}>, %o: memref<5x{element}>",
        f"""
      %z = arith.constant 0 : index
      %four = arith.constant 4 : index
      %a = vector.load %x[%z] : memref<6x{element}>, vector<4x{element}>
      %b = vector.load %x[%four] : memref<6x{element}>, vector<2x{element}>
      %c = vector.shuffle %b, %a [0, 2, 1, 5, 0] : vector<2x{element}>, vector<4x{element}>
      vector.store %c, %o[%z] : memref<5x{element}>, vector<5x{element}>""",
        source,
        target,
    )
    np.testing.assert_array_equal(target, source[[4, 0, 5, 3, 4]])


def test_noalias_is_said_where_the_signature_says_it() -> None:
    func = kernel("%a: memref<4xf32> {llvm.noalias}, %b: memref<4xf32>", "")
    assert to_llvm_ir(func).count("noalias") == 1


def test_accesses_share_what_their_addresses_have_in_common() -> None:
    """In a block and in those within it; what one arm of a branch has computed, the other and what follows have not."""
    memory = "memref<8x4xf32>"
    accesses = f"""%a0 = memref.load %m[%i, %i] : {memory}
        %a1 = memref.load %m[%i, %c1] : {memory}
        scf.if %low {{
          %b = memref.load %m[%j, %c1] : {memory}
          memref.store %b, %m[%i, %i] : {memory}
        }} else {{
          %b = memref.load %m[%j, %i] : {memory}
          memref.store %b, %m[%i, %c1] : {memory}
        }}
        %d = memref.load %m[%j, %c1] : {memory}
        memref.store %d, %m[%j, %i] : {memory}"""
    counter = "index {mdsl.range = array<i64: 0, 3>}"
    body = f"%c1 = arith.constant 1 : index\n%low = arith.cmpi slt, %i, %j : index\n{accesses}"
    arguments = f"%m: {memory}, %i: {counter}, %j: {counter}"
    text = to_llvm_ir(kernel(arguments, body))
    assert text.count('mul i64 %"i", 4') == 1
    assert text.count('mul i64 %"j", 4') == 3
    for i, j in ((1, 2), (2, 1)):
        given = np.arange(32, dtype=np.float32).reshape(8, 4)
        wanted = given.copy()
        wanted[i, i if i < j else 1] = wanted[j, 1 if i < j else i]
        wanted[j, i] = wanted[j, 1]
        run(arguments, body, given, i, j)
        np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize(("upper", "guarded"), [("%c4", False), ("%c0", True), ("%n", True)])
def test_a_loop_that_is_known_to_run_is_entered_without_asking(upper: str, guarded: bool) -> None:
    body = f"""%c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c4 = arith.constant 4 : index
        %one = arith.constant 1.0 : f32
        %sum = scf.for %k = %c0 to {upper} step %c1 iter_args(%s = %one) -> (f32) {{
          %next = arith.addf %s, %one : f32
          scf.yield %next : f32
        }}
        memref.store %sum, %m[%c0] : memref<1xf32>"""
    arguments = "%m: memref<1xf32>, %n: index {mdsl.range = array<i64: 0, 9>}"
    assert (to_llvm_ir(kernel(arguments, body)).count("br i1") == 2) is guarded
    for n in (0, 3):
        given = np.zeros(1, np.float32)
        run(arguments, body, given, n)
        assert given[0] == 1 + {"%c4": 4, "%c0": 0, "%n": n}[upper]


def test_equal_kernels_share_an_object() -> None:
    first, second = (load_kernels({name: matmul_text(2, 5, 16, name)}) for name in ("first", "second"))
    assert first.addresses["first"] == second.addresses["second"]


def test_equal_kernels_of_a_program_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    kernels = load_kernels({name: matmul_text(3, 5, 16, name) for name in ("first", "second")})
    assert kernels.addresses["first"] == kernels.addresses["second"]


def test_what_llvm_refuses_is_an_error_at_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(llvm_ir: str, target: Target) -> bytes:
        raise RuntimeError("no register left\nin a function")

    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    with monkeypatch.context() as patch:
        patch.setattr("mdsl.codegen.kernels.to_object", refuse)
        with pytest.raises(VerifyError, match="has no machine code: no register left$"):
            load_kernels({"k": matmul_text(2, 7, 16, "k")})
    assert load_kernels({"k": matmul_text(2, 7, 16, "k")}).addresses["k"]


@pytest.mark.parametrize(
    ("said", "size"), [("no register left\nin a function", 331), ("", 347), (" \n", 349)]
)
def test_what_llvm_refuses_of_a_program_is_an_error_at_its_place(
    said: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that a compilation has just made are taken apart by then. Of each size, for the process keeps those that it has compiled."""

    def refuse(llvm_ir: str, target: Target) -> bytes:
        raise RuntimeError(said)

    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    of = f"tensor<{size}xf32>"
    text = f"func.func @main(%x: {of}) -> {of} {{\n  %y = nn.relu %x : ({of}) -> {of}\n  return %y : {of}\n}}"
    with monkeypatch.context() as patch:
        patch.setattr("mdsl.codegen.kernels.to_object", refuse)
        with pytest.raises(mdsl.MdslError) as caught:
            mdsl.compile(text)
    first, shown = str(caught.value).split("\n")
    assert first.startswith("<text>:2:") and "has no machine code: " in first
    assert first.endswith("no register left" if said.strip() else "LLVM says nothing of why")
    assert "ukernel.func @" in shown
    mdsl.compile(text)


def test_kernels_are_compiled_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    kernels = load_kernels({name: matmul_text(3, 7, 16, name) for name in ("first", "second")})
    assert kernels.addresses["first"] == kernels.addresses["second"]


def test_unlowered_kernel_is_an_error() -> None:
    body = "%c = arith.constant 0.0 : f32\nlinalg.fill ins(%c : f32) outs(%a : memref<4xf32>)"
    with pytest.raises(VerifyError, match="'linalg.fill'"):
        compile_kernels([kernel("%a: memref<4xf32>", body)])


@pytest.mark.parametrize(("second", "abreast"), [("%x1", True), ("%y0", False)])
def test_neighbouring_functions_are_computed_abreast(second: str, abreast: bool) -> None:
    """Instruction by instruction, in turn; but one of the other's result after the other."""
    x = "memref<2x4xf32>"
    body = f"""%c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %x0 = vector.load %x[%c0, %c0] : {x}, vector<4xf32>
        %x1 = vector.load %x[%c1, %c0] : {x}, vector<4xf32>
        %y0 = math.exp %x0 : vector<4xf32>
        %y1 = math.exp {second} : vector<4xf32>
        vector.store %y0, %x[%c0, %c0] : {x}, vector<4xf32>
        vector.store %y1, %x[%c1, %c0] : {x}, vector<4xf32>"""
    lines = to_llvm_ir(kernel(f"%x: {x}", body)).splitlines()
    one, other = (number for number, line in enumerate(lines) if "fcmp ogt" in line)
    assert (other - one == 1) is abreast
    values = np.linspace(-2, 0.5, 8, dtype=np.float32).reshape(2, 4)
    expected = np.exp(values if abreast else np.stack([values[0], np.exp(values[0])]))
    run(f"%x: {x}", body, values)
    np.testing.assert_allclose(values, expected, rtol=3e-7)


def _kept_in(folder: Path) -> Path:
    """The only entry with a proof; there may be one of the interpreter's instructions, which a process keeps once."""
    (entry,) = (path for path in folder.glob("*/*") if b'"read"' in path.read_bytes())
    return entry


def test_a_kernel_is_one_entry_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proof and its object, which is taken again; a damaged one is made anew."""
    text = matmul_text(2, 6, 16, "k")
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    signatures = load_kernels({"k": text}).signatures
    entry = _kept_in(tmp_path)
    made = entry.read_bytes()
    with monkeypatch.context() as patch:
        for function in ("mdsl.codegen.kernels.to_object", "mdsl.codegen.bounds.prove"):
            patch.setattr(function, lambda *_: pytest.fail("done again"))
        assert load_kernels({"k": text}).signatures == signatures
    entry.write_bytes(made[:-1])
    assert load_kernels({"k": text}).signatures == signatures
    assert entry.read_bytes() == made


NO_PROOFS = [b"", b"null", b"1", b"[1]", b"{}", b"[[]]", b'[["read", 4, 0, 4]]', b"\xff", b"{", b"[" * 100_000,
             b'[["read", "4", [0, 1], 4]]', b'[["read", 4, ["a", 1], 4]]', b'[["read", 4, [0, 1], 0]]', b'[["own", 4, [0, 1], 4]]']  # fmt: skip


@pytest.mark.parametrize("proof", NO_PROOFS)
@pytest.mark.parametrize("within", ["", '{"k0":'])
def test_proofs_of_a_program_s_kernels_that_are_none_are_made_anew(
    proof: bytes, within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"k{n}": matmul_text(1, n + 1, 16, f"k{n}") for n in range(8)}
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    signatures = load_kernels(texts).signatures
    (entry,) = (path for path in tmp_path.glob("*/*") if path.read_bytes()[64:].startswith(b'{"k0":'))
    made = entry.read_bytes()
    cache.put(entry.parent.name + entry.name, within.encode() + proof + b"}" * bool(within))
    assert load_kernels(texts).signatures == signatures
    assert entry.read_bytes() == made


@pytest.mark.parametrize("proof", NO_PROOFS)
def test_a_sound_entry_without_a_proof_is_made_anew(
    proof: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = matmul_text(2, 6, 16, "k")
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    signatures = load_kernels({"k": text}).signatures
    entry = _kept_in(tmp_path)
    made = entry.read_bytes()
    key = entry.parent.name + entry.name
    cache.put(key, len(proof).to_bytes(8, "little") + proof)
    assert entry.read_bytes() != made
    assert load_kernels({"k": text}).signatures == signatures
    assert entry.read_bytes() == made
