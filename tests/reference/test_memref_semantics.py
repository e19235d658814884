"""memref and vector: views alias, accesses are checked."""

from __future__ import annotations

import numpy as np
import pytest
from evaluating import evaluate

from mdsl.errors import MdslError
from mdsl.reference import run
from mdsl.syntax.parser import parse


def on_memory(lines: str, *inputs: np.ndarray, types: str) -> list[np.ndarray]:
    """Runs `lines` in a kernel over memrefs %a, %b, ...; the memrefs' contents afterwards."""
    arguments = ", ".join(f"%{n}: {t}" for n, t in zip("abc", types.split("; "), strict=False))
    constants = "\n".join(f"%c{n} = arith.constant {n} : index" for n in range(6))
    module = parse(f"ukernel.func @k({arguments}) {{\n{constants}\n{lines}\nukernel.return\n}}")
    return run(module, inputs, "k")


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_load_and_store() -> None:
    lines = """%v = memref.load %a[%c1, %c2] : memref<3x4xf32>
      memref.store %v, %a[%c0, %c0] : memref<3x4xf32>"""
    (found,) = on_memory(lines, X, types="memref<3x4xf32>")
    assert found[0, 0] == 6 and X[0, 0] == 0, "inputs are never altered"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "%v = memref.load %a[%c3, %c0] : memref<3x4xf32>",
            "'memref.load': index 3 is out of bounds for dimension 0",
        ),
        (
            "%m = arith.subi %c0, %c1 : index\n%v = memref.load %a[%m, %c0] : memref<3x4xf32>",
            "index -1 is out of bounds",
        ),
        (
            "%v = vector.load %a[%c0, %c1] : memref<3x4xf32>, vector<4xf32>",
            "elements 1 to 5 of a last dimension of 4",
        ),
        (
            "%v = vector.load %a[%c3, %c0] : memref<3x4xf32>, vector<4xf32>",
            "index 3 is out of bounds for dimension 0",
        ),
        (
            "%v = memref.subview %a[%c2, 0] [2, 4] [1, 1] : memref<3x4xf32> to memref<2x4xf32, strided<[4, 1], offset: ?>>",
            "leaves dimension 0",
        ),
    ],
)
def test_out_of_bounds(line: str, message: str) -> None:
    with pytest.raises(MdslError, match=message) as error:
        on_memory(line, X, types="memref<3x4xf32>")
    assert str(error.value).startswith("<text>:")


def test_views_alias() -> None:
    lines = """%row = memref.subview %a[%c1, 0] [1, 4] [1, 1] : memref<3x4xf32> to memref<4xf32, strided<[1], offset: ?>>
      %flat = memref.collapse_shape %a [[0, 1]] : memref<3x4xf32> into memref<12xf32>
      %back = memref.expand_shape %flat [[0, 1]] output_shape [6, 2] : memref<12xf32> into memref<6x2xf32>
      %v = arith.constant -1.0 : f32
      memref.store %v, %row[%c2] : memref<4xf32, strided<[1], offset: ?>>
      memref.store %v, %flat[%c0] : memref<12xf32>
      memref.store %v, %back[%c5, %c1] : memref<6x2xf32>
      %w = memref.load %flat[%c5] : memref<12xf32>
      memref.store %w, %a[%c0, %c1] : memref<3x4xf32>"""
    (found,) = on_memory(lines, X, types="memref<3x4xf32>")
    wanted = X.copy()
    wanted[1, 2] = wanted[0, 0] = wanted[2, 3] = -1
    wanted[0, 1] = X[1, 1]
    np.testing.assert_array_equal(found, wanted)


def test_strided_arguments() -> None:
    lines = "memref.copy %a, %b : memref<2x2xf32, strided<[4, 1]>> to memref<2x2xf32>"
    _, found = on_memory(
        lines, X[:2, :2], X[:2, :2] * 0, types="memref<2x2xf32, strided<[4, 1]>>; memref<2x2xf32>"
    )
    np.testing.assert_array_equal(found, X[:2, :2])


def test_arena() -> None:
    text = """func.func @main(%x: memref<4xf32>, %y: memref<4xf32> {mdsl.output}) {
      %arena = memref.alloc() {alignment = 64} : memref<128xi8>
      %first = arith.constant 64 : index
      %next = arith.constant 72 : index
      %whole = memref.view %arena[%first][] : memref<128xi8> to memref<4xf32>
      %tail = memref.view %arena[%next][] : memref<128xi8> to memref<2xf32>
      memref.copy %x, %whole : memref<4xf32> to memref<4xf32>
      %zero = arith.constant 0 : index
      %v = arith.constant 9.0 : f32
      memref.store %v, %tail[%zero] : memref<2xf32>
      memref.copy %whole, %y : memref<4xf32> to memref<4xf32>
      memref.dealloc %arena : memref<128xi8>
      func.return
    }"""
    found = evaluate(text, np.array([1, 2, 3, 4], np.float32))
    assert [f.tolist() for f in found] == [[1, 2, 9, 4]]
    with pytest.raises(MdslError, match="bytes 120 to 136 of a buffer of 128"):
        evaluate(text.replace("64 : index", "120 : index"), np.zeros(4, np.float32))


def test_globals() -> None:
    text = """memref.global "private" constant @w : memref<2xf32> = dense<[1.0, 2.0]>
    memref.global @scratch : memref<2xf32> = uninitialized
    func.func @main(%y: memref<2xf32> {mdsl.output}) {
      %w = memref.get_global @w : memref<2xf32>
      %s = memref.get_global @scratch : memref<2xf32>
      memref.copy %w, %s : memref<2xf32> to memref<2xf32>
      %t = memref.get_global @scratch : memref<2xf32>
      memref.copy %t, %y : memref<2xf32> to memref<2xf32>
      func.return
    }"""
    assert evaluate(text)[0].tolist() == [1, 2]
    with pytest.raises(MdslError, match="writes to constant memory"):
        evaluate(text.replace("%w, %s", "%s, %w"))


def test_vectors() -> None:
    lines = """%x = vector.load %a[%c1, %c0] : memref<3x4xf32>, vector<4xf32>
      %s = memref.load %a[%c0, %c2] : memref<3x4xf32>
      %b2 = vector.broadcast %s : f32 to vector<4xf32>
      %f = vector.fma %x, %b2, %x : vector<4xf32>
      vector.store %f, %a[%c0, %c0] : memref<3x4xf32>, vector<4xf32>
      %sum = vector.reduction <add>, %x : vector<4xf32> into f32
      %top = vector.reduction <maximumf>, %x, %s : vector<4xf32> into f32
      %e = vector.extract %x[3] : f32 from vector<4xf32>
      %i = vector.insert %sum, %x [1] : f32 into vector<4xf32>
      %j = vector.insert %top, %i [2] : f32 into vector<4xf32>
      %k = vector.insert %e, %j [0] : f32 into vector<4xf32>
      %two = vector.shuffle %k, %k [0, 5] : vector<4xf32>, vector<4xf32>
      %l = vector.shuffle %two, %k [5, 0, 1, 3] : vector<2xf32>, vector<4xf32>
      vector.store %k, %a[%c2, %c0] : memref<3x4xf32>, vector<4xf32>
      vector.store %l, %a[%c1, %c0] : memref<3x4xf32>, vector<4xf32>"""
    (found,) = on_memory(lines, X, types="memref<3x4xf32>")
    assert found.tolist() == [[12, 15, 18, 21], [7, 7, 22, 22], [7, 22, 7, 7]]


@pytest.mark.parametrize(
    ("kind", "element", "values", "wanted"),
    [
        ("add", "i32", [1, 2, 3, 4], 10),
        ("mul", "i32", [1, 2, 3, 4], 24),
        ("mul", "f32", [1, 2, 3, 4], 24),
        ("minsi", "i32", [3, -2, 5, 7], -2),
        ("maxsi", "i32", [3, -2, 5, 7], 7),
        ("minui", "i32", [3, -2, 5, 7], 3),
        ("maxui", "i32", [3, -2, 5, 7], -2),
        ("and", "i32", [7, 6, 12, 15], 4),
        ("or", "i32", [1, 2, 4, 8], 15),
        ("xor", "i32", [1, 3, 4, 4], 2),
        ("minimumf", "f32", [3, np.nan, 5, 7], np.nan),
        ("minnumf", "f32", [3, np.nan, 5, 7], 3),
        ("maxnumf", "f32", [3, np.nan, 5, 7], 7),
    ],
)
def test_reductions(kind: str, element: str, values: list[float], wanted: float) -> None:
    dtype = {"i32": np.int32, "f32": np.float32}[element]
    lines = f"""%x = vector.load %a[%c0] : memref<4x{element}>, vector<4x{element}>
      %r = vector.reduction <{kind}>, %x : vector<4x{element}> into {element}
      memref.store %r, %a[%c0] : memref<4x{element}>"""
    (found,) = on_memory(lines, np.array(values, dtype), types=f"memref<4x{element}>")
    np.testing.assert_array_equal(found[0], wanted)


def test_step() -> None:
    lines = "%x = vector.step : vector<4xindex>\nvector.store %x, %a[%c0] : memref<4xindex>, vector<4xindex>"
    assert on_memory(lines, np.zeros(4, np.int64), types="memref<4xindex>")[0].tolist() == [0, 1, 2, 3]
