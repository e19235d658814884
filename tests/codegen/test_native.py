"""The target descriptions, the object cache and the linking of native code."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mdsl.codegen import native
from mdsl.codegen.native import compile_module, load_object, to_assembly, to_llvm, to_object
from mdsl.support import cache
from mdsl.support.source_digest import source_digest
from mdsl.target import target
from mdsl.target.target import Target, TargetError

SQUARE = """
define i64 @square(i64 %x) {
  %y = mul i64 %x, %x
  ret i64 %y
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    return tmp_path


def call(code: native.NativeCode, symbol: str, argument: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address(symbol))(argument)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if path.is_file()]


def test_host_target() -> None:
    host = Target.host()
    assert host is Target.parse("host")
    assert host.vector_bytes in (16, 32, 64)
    assert host.lanes("f32") == host.vector_bytes // 4
    assert host.lanes("bf16") == 2 * host.lanes("f32")
    assert host.core.l1_bytes < host.core.l2_bytes


# Host, targets that run on it (on a processor that has them all) and the like, targets that never do.
HOSTS = [
    ("avx512", {"avx512", "avx2", "x86-64-v2"}, {"neon", "apple-m1"}),
    ("avx2", {"avx2", "x86-64-v3", "znver3", "x86-64"}, {"avx512", "znver4", "x86-64-v4", "neon"}),
    ("x86-64-v2", {"x86-64-v2", "x86-64"}, {"avx2", "avx512", "neon"}),
    ("x86-64", {"x86-64"}, {"x86-64-v2", "neon"}),
    ("neon", {"neon", "neoverse-v1"}, {"apple-m1", "avx2", "x86-64"}),
    ("apple-m1", {"apple-m1"}, {"avx2"}),
]


@pytest.mark.parametrize(("name", "runs", "foreign"), HOSTS, ids=[name for name, *_ in HOSTS])
def test_the_host_can_be_taken_for_another(
    monkeypatch: pytest.MonkeyPatch, name: str, runs: set[str], foreign: set[str]
) -> None:
    named = Target.parse(name)
    monkeypatch.setenv("MDSL_HOST", name)
    monkeypatch.setattr(target, "_processor", lambda: named)
    host = Target.host()
    assert host is Target.parse("host")
    assert (host.cpu, host.features, host.lanes("f32")) == (named.cpu, named.features, named.lanes("f32"))
    assert {n for n in runs | foreign if Target.parse(n).runs_here} == runs


def test_what_the_processor_lacks_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the host is taken: here for more than it is."""
    monkeypatch.setattr(target, "_processor", lambda: Target.parse("avx2"))
    monkeypatch.setenv("MDSL_HOST", "avx512")
    assert Target.host().vector_bytes == 64 and not Target.host().runs_here
    with pytest.raises(
        TargetError, match="'avx512' cannot run on this machine .*taken for avx512 by MDSL_HOST"
    ):
        native.load_object("more", ["square"], bytes, Target.parse("avx512"))


def test_objects_for_different_hosts_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("host", "x86-64" if target._processor().architecture == "x86_64" else "neon"):
        monkeypatch.setenv("MDSL_HOST", name)
        assert call(compile_module(SQUARE, ["square"]), "square", 7) == 49
    assert len(entries(folder)) == 2


def test_an_unknown_host_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_HOST", "vax")
    with pytest.raises(TargetError, match="MDSL_HOST: unknown target 'vax'; known targets: .*avx2"):
        Target.host()


def test_threads_compile_at_once() -> None:
    """Where llvmlite's lock can be left out, which else lets one at a time into LLVM."""
    from llvmlite.binding import ffi

    target = Target.host()
    texts = [SQUARE.replace("square", f"square{k}") for k in range(16)]
    alone = [to_object(text, target) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda text: to_object(text, target), texts)) == alone
    assert hasattr(ffi.lib.LLVMPY_RunNewModulePassManager, "_cfn")


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'vax'; known targets: host, avx512, avx2, .*neon"):
        Target.parse("vax")


@pytest.mark.parametrize(
    ("name", "word"), [("avx512", "zmm"), ("avx2", "ymm"), ("x86-64", "xmm"), ("neon", ".4s")]
)
def test_cross_assembly(name: str, word: str) -> None:
    target = Target.parse(name)
    lanes = target.lanes("f32")
    vector = f"<{lanes} x float>"
    body = f"%y = fadd {vector} %x, %x\n store {vector} %y, ptr %p\n ret void"
    add = f"define void @f(ptr %p, {vector} %x) {{\n {body}\n}}"
    assert word in to_assembly(add, target)
    assert to_object(add, target)


def test_other_architecture_is_not_run() -> None:
    foreign = Target.parse("neon" if Target.host().architecture == "x86_64" else "avx2")
    with pytest.raises(TargetError, match="cannot run on this machine"):
        compile_module(SQUARE, ["square"], target=foreign)


def test_invalid_ir_is_an_error(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="parsing error"):
        compile_module("define i64 @f() { ret i32 0 }", ["f"])
    assert not entries(folder)


def test_library_functions_are_found(folder: Path) -> None:
    body = "%y = call double @exp(double %x)\n ret double %y"
    code = compile_module(f"declare double @exp(double)\ndefine double @f(double %x) {{\n {body}\n}}", ["f"])
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(code.address("f"))(0.0) == 1.0


def test_warm_load_does_not_compile(folder: Path) -> None:
    host = Target.host()
    code = load_object("warm", ["square"], lambda: to_object(SQUARE, host), host)
    assert call(code, "square", 7) == 49
    assert len(entries(folder)) == 1
    del code

    def never() -> bytes:
        raise AssertionError("compiled again")

    assert call(load_object("warm", ["square"], never, host), "square", 9) == 81


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "forge"])
def test_damaged_object_is_recompiled(folder: Path, damage: str) -> None:
    code = compile_module(SQUARE, ["square"], key_extra=damage)
    del code
    (path,) = entries(folder)
    data = path.read_bytes()
    if damage == "forge":  # a good checksum around bytes that are no object
        name = path.parent.name + path.name
        cache.put(name, b"not an object file")
    else:
        flipped = data[:100] + bytes([data[100] ^ 1]) + data[101:]
        path.write_bytes({"truncate": data[:-10], "flip": flipped, "empty": b""}[damage])
    assert call(compile_module(SQUARE, ["square"], key_extra=damage), "square", 5) == 25
    assert path.read_bytes() == data


def test_cache_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    cache.put(cache.key("x"), b"data")
    assert cache.get(cache.key("x")) is None
    assert call(compile_module(SQUARE, ["square"], "off"), "square", 3) == 9


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_unusable_folder_costs_only_the_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("MDSL_CACHE_DIR", str(file))
    assert call(compile_module(SQUARE, ["square"], "unusable"), "square", 4) == 16


def test_keys_tell_parts_apart() -> None:
    assert cache.key("ab", "c") != cache.key("a", "bc")
    assert source_digest("codegen") != source_digest("codegen", "ir")


def test_sweep_evicts_the_oldest(folder: Path) -> None:
    names = [cache.key(str(i)) for i in range(10)]
    for age, name in enumerate(names):
        cache.put(name, bytes(1000))
        os.utime(folder / name[:2] / name[2:], (1_000_000 + age,) * 2)
    assert cache.get(names[0]) is not None  # used now: the youngest
    cache.sweep(folder, max_bytes=8000)
    kept = [name for name in names if cache.get(name) is not None]
    assert kept == [names[0], *names[6:]]


def _hammer(seed: int) -> bool:
    good = True
    for i in range(200):
        name = cache.key(str(i % 5))
        found = cache.get(name)
        good &= found is None or found == bytes([i % 5]) * 5000
        cache.put(name, bytes([i % 5]) * 5000)
    return good


def test_concurrent_processes(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert all(pool.map(_hammer, range(3)))
    assert not list(folder.glob("*/.new-*"))


def test_optimised_ir_is_readable() -> None:
    assert "mul i64 %x, %x" in to_llvm(SQUARE, Target.host())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_gives_back_what_llvm_made() -> None:
    """A thread that ends drops its machines, and holds llvmlite's lock meanwhile, which nobody would give back in the child."""
    from llvmlite.binding import ffi, get_process_triple

    get_process_triple()
    held = threading.Event()

    def drop() -> None:
        with ffi.lib._lock:
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=drop)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        get_process_triple()
        os._exit(0)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    get_process_triple()
