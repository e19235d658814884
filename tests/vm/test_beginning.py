"""What an engine runs on is compiled beside the program that it is for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

import mdsl
from mdsl.compiler.settings import Settings
from mdsl.runtime import building
from mdsl.runtime.opened import opened
from mdsl.vm import interpreter, program
from mdsl.vm.variant import Variant

TEXT = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n%y = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32>\nreturn %y : tensor<4xf32>\n}"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that load handlers, of which none is there yet."""
    found: list[str] = []
    load = interpreter._load

    def noted(group: str, variant: Variant) -> Sequence[int]:
        found.append(threading.current_thread().name)
        return load(group, variant)

    monkeypatch.setattr(interpreter, "_tables", {})
    monkeypatch.setattr(interpreter, "_load", noted)
    return found


def _ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "mdsl-engine":
            thread.join()


def test_the_interpreter_is_loaded_on_a_thread_of_its_own(loaded: list[str]) -> None:
    program.begin()
    _ended()
    assert loaded == ["mdsl-engine"]
    interpreter.entry_address()
    assert len(loaded) == 1


def test_who_needs_it_meanwhile_waits_for_it(loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load, loading = interpreter._load, threading.Event()

    def slow(group: str, variant: Variant) -> Sequence[int]:
        loading.set()
        time.sleep(0.2)
        return load(group, variant)

    monkeypatch.setattr(interpreter, "_load", slow)
    program.begin()
    assert loading.wait(60)
    interpreter.entry_address()
    assert loaded == ["mdsl-engine"]
    _ended()


def test_what_is_loaded_is_what_the_program_takes(loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers that count steps are others."""
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    building.compiled(opened(mdsl.parse(TEXT), {}), Settings(), "vm", 1, fuel=1000)
    _ended()
    assert len(loaded) == 1 and {variant.fuelled for _, variant in interpreter._tables} == {True}


def test_the_jit_needs_no_interpreter(loaded: list[str]) -> None:
    program.begin("jit")
    _ended()
    assert not loaded


def test_a_program_that_is_compiled_begins_it(loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    run = mdsl.compile(TEXT)
    _ended()
    assert loaded
    np.testing.assert_array_equal(run(np.array([-1, 2, -3, 4], np.float32)), [0, 2, 0, 4])


def test_what_fails_there_fails_for_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def refuse(group: str, variant: Variant) -> Sequence[int]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(interpreter, "_tables", {})
    monkeypatch.setattr(interpreter, "_load", refuse)
    program.begin()
    _ended()
    assert not recwarn.list
    with pytest.raises(RuntimeError, match="no memory"):
        interpreter.entry_address()


def test_without_another_thread_who_needs_it_loads_it(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        program.begin()
    assert not loaded
    interpreter.entry_address()
    assert loaded == [threading.current_thread().name]
