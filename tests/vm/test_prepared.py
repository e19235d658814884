"""What the cache keeps of a program's proof and code: used for the same program, and for no other."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import mdsl
from mdsl.analysis.footprints import KernelArgument
from mdsl.bytecode import decode_code, file_format, verify
from mdsl.bytecode.decode import decode, file_digest, load
from mdsl.bytecode.encode import digest_of, encode
from mdsl.bytecode.file_format import (
    CODE,
    CONSTANTS,
    DIGEST,
    FUNCTIONS,
    HEADER,
    LOCATIONS,
    SECTION,
    SECTIONS,
    SIGNATURE,
)
from mdsl.bytecode.module import (
    BufferArgument,
    BytecodeError,
    Function,
    Instruction,
    Kernel,
    Module,
    TensorSpec,
)
from mdsl.codegen.kernels import Kernels
from mdsl.runtime.loading import ready
from mdsl.support import cache
from mdsl.vm import layout, prepared
from mdsl.vm.program import Program

TEXT = """
func.func @main(%x: tensor<4x40xf32>) -> tensor<4x40xf32> {
  %y = nn.softmax %x {axis = 1} : (tensor<4x40xf32>) -> tensor<4x40xf32>
  return %y : tensor<4x40xf32>
}
"""
X = np.linspace(-1, 1, 160, dtype=np.float32).reshape(4, 40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file that was loaded before."""
    path = tmp_path / "net.mbc"
    mdsl.compile(TEXT).save(path)
    mdsl.load(path)
    return path


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("done again")

    monkeypatch.setattr(verify, "verify", refuse)
    monkeypatch.setattr(layout, "lay_out", refuse)
    monkeypatch.setattr(decode_code, "read_code", refuse)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_was_loaded_before_is_only_put_in_place(
    saved: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = mdsl.compile(TEXT)(X)
    forbid_work(monkeypatch)
    np.testing.assert_array_equal(mdsl.load(saved, threads=threads)(X), wanted)


def test_what_was_compiled_is_prepared_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsl.compiler.program_cache._WORTH_KEEPING", 0)
    (tmp_path / "net.mir").write_text(TEXT)
    wanted = mdsl.compile(tmp_path / "net.mir")(X)
    forbid_work(monkeypatch)
    np.testing.assert_array_equal(mdsl.compile(tmp_path / "net.mir")(X), wanted)


def test_other_ways_to_run_are_made_of_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fuel the handlers are others, and so are those that count."""
    forbid_work(monkeypatch)
    program = mdsl.load(saved, fuel=10**6)
    assert mdsl.load(saved).program.profile([X], [np.empty_like(X)]).instructions > 0  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(program(X)).sum(1), 1, rtol=1e-5)


DAMAGES = {
    "a bit flipped": lambda entries: [data[:-1] + bytes([data[-1] ^ 1]) for data in entries],
    "cut": lambda entries: [data[: len(data) - 8] for data in entries],
    "longer": lambda entries: [data + bytes(8) for data in entries],
    "of another": lambda entries: [*entries[1:], entries[0]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(
    damage: str, saved: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, made = mdsl.load(saved)(X), []

    def count(*given: Any) -> prepared.Prepared:
        made.append(given)
        return prepare(*given)

    prepare = prepared._prepare
    monkeypatch.setattr(prepared, "_prepare", count)
    cache.put(cache.key("another"), b"another")
    entries = sorted(own_cache.glob("*/*"))
    for entry, data in zip(entries, DAMAGES[damage]([e.read_bytes() for e in entries]), strict=True):
        entry.write_bytes(data)
    for _ in range(2):
        np.testing.assert_array_equal(mdsl.load(saved)(X), wanted)
    assert len(made) == 1


def test_code_is_read_when_it_is_asked_for(saved: Path) -> None:
    data = saved.read_bytes()
    whole, later = decode(data), decode(data, code=False)
    assert later.digest and later.digest == digest_of(whole)
    assert encode(later) == data
    assert [f.code for f in later.functions] == [f.code for f in whole.functions]
    assert [f.offsets for f in later.functions] == [f.offsets for f in whole.functions]


def test_a_function_whose_code_is_not_read_yet_is_as_any_other(saved: Path) -> None:
    whole = load(saved).functions[0]
    assert load(saved, code=False).functions[0] == whole == load(saved, code=False).functions[0]
    for change in ({}, {"code": whole.code}, {"arena": 64}):
        assert replace(load(saved, code=False).functions[0], **change) == replace(whole, **change)
    assert load(saved, code=False).functions[0] != replace(whole, arena=whole.arena + 64)
    assert copy(load(saved, code=False).functions[0]) == whole


@pytest.mark.parametrize("engine", ["vm", "jit"])
def test_code_is_that_which_was_loaded(saved: Path, engine: str) -> None:
    """Whatever is written to the file since, which is mapped: the proof is of what it was."""
    wanted, whole = mdsl.load(saved)(X), load(saved)
    later = load(saved, code=False)
    data = saved.read_bytes()
    with saved.open("r+b") as file:
        for kind in (CODE, LOCATIONS):
            start, size = section(data, kind)
            file.seek(start)
            file.write(bytes(size))
    program = ready(later, saved, engine, 1)
    assert later.functions[0].code == whole.functions[0].code
    assert later.functions[0].locations == whole.functions[0].locations
    np.testing.assert_array_equal(program(X), wanted)


def section(data: bytes, kind: int) -> tuple[int, int]:
    """Where a section begins, and how long it is."""
    _, _, start, size = SECTION.unpack_from(data, HEADER.size + SECTION.size * SECTIONS.index(kind))
    return start, size


def forge(data: bytes) -> bytes:
    """The bytes with a checksum that fits them."""
    return data[: DIGEST.start] + file_digest(memoryview(data)) + data[DIGEST.stop :]


@pytest.mark.parametrize("kind", [CODE, LOCATIONS])
def test_damaged_code_is_found_when_it_is_loaded(saved: Path, kind: int) -> None:
    data = saved.read_bytes()
    start, size = section(data, kind)
    saved.write_bytes(forge(data[: start + size - 3] + b"\xff\xff\xff" + data[start + size :]))
    with pytest.raises(mdsl.MdslError, match=r"net\.mbc: error: .*at byte"):
        mdsl.load(saved)


@pytest.mark.parametrize("kind", [CONSTANTS, SIGNATURE, FUNCTIONS, CODE, LOCATIONS])
def test_the_digest_sees_every_byte_that_a_proof_reads(saved: Path, kind: int) -> None:
    """However the file is laid out: its own checksum covers what comes last only by a CRC, which can be forged."""
    data = saved.read_bytes()
    parts = {k: [bytes(10)] for k in SECTIONS}
    digests = {
        file_format.proof_digest({**parts, kind: [bytes(i) + b"\1" + bytes(9 - i)]}) for i in range(10)
    }
    assert len(digests | {decode(data, code=False).digest}) == 11


def dispatching(offset: int) -> Module:
    """A kernel on the bytes of `x` from `offset` on."""
    code = [Instruction("dispatch", (0, ((BufferArgument(0, offset=offset),),))), Instruction("ret")]
    x = TensorSpec("x", "f32", (8,))
    module = Module([Function("main", (x,), (), (), 0, code)], [Kernel("k", "")])
    module.digest = digest_of(module)
    return module


def test_a_proof_is_of_what_kernels_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code, with a kernel that reads further, is proved anew, and refused."""

    def ready(module: Module, span: int) -> Program:
        return Program(module, Kernels({"k": 8}, {"k": (KernelArgument("read", span),)}))

    ready(dispatching(0), 32)
    for module, span in ((dispatching(0), 36), (dispatching(4), 32)):
        with pytest.raises(BytecodeError):
            ready(module, span)
    seen: list[Module] = []
    monkeypatch.setattr(prepared, "_prepare", lambda module, *_: seen.append(module))
    ready(dispatching(0), 32)
    assert not seen
