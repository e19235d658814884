"""A program's file that was compiled before is not read as a program again, unless anything that decides has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mdsl
from mdsl.compiler import program_cache, reading, source_cache
from mdsl.compiler.settings import Settings
from mdsl.support import cache

TEXT = """
func.func @main(%x: tensor<4x40xf32>) -> tensor<4x40xf32> {
  %w = arith.constant dense_resource<w> : tensor<40x40xf32>
  %y = nn.matmul %x, %w : (tensor<4x40xf32>, tensor<40x40xf32>) -> tensor<4x40xf32>
  return %y : tensor<4x40xf32>
}
"""
X = np.ones((4, 40), np.float32)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with weights beside it, which is compiled."""
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(program_cache, "_WORTH_KEEPING", 0)
    path = tmp_path / "net.mir"
    path.write_text(TEXT)
    _weights(path, 1)
    mdsl.compile(path)
    return path


def _weights(path: Path, scale: float) -> None:
    save_file({"w": np.full((40, 40), scale, np.float32)}, path.with_suffix(".safetensors"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read as programs."""
    seen: list[Path] = []
    original = reading.read

    def counted(path: Path) -> Any:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(reading, "read", counted)
    return seen


def test_a_file_is_read_once(program: Path, reads: list[Path]) -> None:
    np.testing.assert_array_equal(mdsl.compile(program)(X), X * 40)
    np.testing.assert_array_equal(mdsl.compile(str(program), engine="jit", threads=2)(X), X * 40)
    assert not reads


def test_what_decides_is_in_the_key(
    program: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ({"ukernels": False}, {"target": "x86-64-v2"}, {"pipeline": "canonicalize"}):
        key = source_cache.KeptSource(program, Settings(**options)).key
        assert key != source_cache.KeptSource(program, Settings()).key, options
    program.write_text(TEXT + "// changed\n")
    mdsl.compile(program)
    monkeypatch.setattr(source_cache, "_onnx", lambda: b"another")
    mdsl.compile(program)
    other = program.with_name("other.mir")  # its name is in the locations
    program.rename(other)
    program.with_suffix(".safetensors").rename(other.with_suffix(".safetensors"))
    mdsl.compile(other)
    assert len(reads) == 3


def test_weights_beside_the_file_decide(program: Path, reads: list[Path]) -> None:
    _weights(program, 2)
    np.testing.assert_array_equal(mdsl.compile(program)(X), X * 80)
    assert len(reads) == 1
    program.with_suffix(".safetensors").unlink()
    with pytest.raises(mdsl.MdslError):
        mdsl.compile(program)


def test_external_data_of_a_model_decides(tmp_path: Path, program: Path, reads: list[Path]) -> None:
    onnx = pytest.importorskip("onnx")
    w = onnx.numpy_helper.from_array(np.eye(40, dtype=np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 40]) for n in "xy"]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "net", ends[:1], ends[1:], [w]))
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    for _ in range(2):
        np.testing.assert_array_equal(mdsl.compile(path)(X), X)
    assert len(reads) == 1
    (tmp_path / "w.bin").write_bytes(np.full((40, 40), 3, np.float32).tobytes())
    np.testing.assert_array_equal(mdsl.compile(path)(X), X * 120)


def test_a_file_that_changes_while_it_is_compiled_is_not_kept(
    program: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = TEXT.replace("nn.matmul %x, %w", "nn.matmul  %x, %w")
    original = program_cache.to_bytecode

    def changing(*parts: Any, **options: Any) -> Any:
        program.write_text(TEXT)
        return original(*parts, **options)

    program.write_text(changed)
    source = source_cache.KeptSource(program, Settings())
    monkeypatch.setattr(program_cache, "to_bytecode", changing)
    mdsl.compile(program, pipeline="canonicalize")
    program.write_text(changed)
    assert source.found() is None
    assert source_cache.KeptSource(program, Settings(pipeline="canonicalize")).found() is None
    assert len(reads) == 1


@pytest.mark.parametrize(
    "entry",
    [None, 7, [], {}, {"program": 1, "files": []}, {"program": "../..", "files": []}, {"program": "0" * 64},
     {"program": "0" * 64, "files": [["/dev/zero", "0"]]}, {"program": "0" * 64, "files": [["\0", "0"]]}, {"program": "0" * 64, "files": [1]}],
    ids=str,
)  # fmt: skip
def test_whatever_an_entry_says(program: Path, reads: list[Path], entry: Any) -> None:
    key = source_cache.KeptSource(program, Settings()).key
    assert key is not None
    cache.put_json(key, entry)
    np.testing.assert_array_equal(mdsl.compile(program)(X), X * 40)
    assert len(reads) == 1


def test_a_refused_program_is_compiled_anew(program: Path, reads: list[Path]) -> None:
    source = source_cache.KeptSource(program, Settings())
    module = source.found()
    assert module is not None and source.program is not None
    module.kernels = []
    cache.store(source.program, program_cache.pieces(module), program_cache.HEADER.size)
    np.testing.assert_array_equal(mdsl.compile(program)(X), X * 40)
    np.testing.assert_array_equal(mdsl.compile(program)(X), X * 40)
    assert len(reads) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_is_not_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.mir")
    assert source_cache.KeptSource(tmp_path / "net.mir", Settings()).key is None
