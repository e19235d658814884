"""A compiled program that takes and returns NumPy arrays."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsl.bytecode.module import BytecodeError, Layout, Module, TensorSpec
from mdsl.compiler.entry import Spec, describe, open_dims, signature
from mdsl.compiler.settings import OpenDimsError
from mdsl.errors import MdslError
from mdsl.runtime.signature import arrange

if TYPE_CHECKING:
    from mdsl.compiler.settings import Settings
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.runtime.opened import Opened
    from mdsl.target.target import Target

Outputs = np.ndarray | tuple[np.ndarray, ...]


class Executable:
    """A program, ready to be called: `exe(x, y)` or `exe(image=x)`.

    `inputs` and `outputs` are its specs (name, dtype, shape). A call returns the output array, or a
    tuple of them if there are several. Inputs must have the specs' shapes and dtypes; one that is not
    contiguous is copied. May be called from several threads at once, and pickled. Raises MdslError.
    """

    engine: str
    threads: int

    @property
    def inputs(self) -> tuple[Spec, ...]:
        raise AssertionError

    @property
    def outputs(self) -> tuple[Spec, ...]:
        raise AssertionError

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """How inputs lie that the program keeps in blocks (pass `keep-layouts`), by name; so do the outputs in their memory."""
        return {}

    def __call__(self, *arrays: object, **named: object) -> Outputs:
        results = self._run(arrange(self.inputs, arrays, named))
        return results[0] if len(results) == 1 else tuple(results)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program as an `.mbc` file, which appears whole or not at all. Raises OSError."""
        from mdsl.bytecode.encode import save

        save(self.bytecode(), path)

    def bytecode(self) -> Module:
        """The program as a bytecode module."""
        raise AssertionError

    def fitting(self, arrays: Sequence[np.ndarray]) -> tuple[Executable, Sequence[np.ndarray]]:
        """The program that runs when it is called with these arrays, and what that one takes."""
        return self, arrays

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise AssertionError

    def _repr_html_(self) -> str:
        from mdsl.support.notebooks import table

        ways = [("input", self.inputs), ("output", self.outputs)]
        rows = [(way, spec.name, describe(spec)) for way, specs in ways for spec in specs]
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return table(f"engine {self.engine}, {threads}", ("", "name", "type"), rows)

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{spec.name}: {describe(spec)}" for spec in specs)
            for specs in (self.inputs, self.outputs)
        )
        return f"<Executable ({inputs}) -> ({outputs}), engine {self.engine}, threads {self.threads}>"


class VmExecutable(Executable):
    """Bytecode on the VM's interpreter ("vm") or compiled as a whole ("jit"); with `fuel` a call that takes more
    steps, on any of its threads, is stopped by an MdslError. Micro-kernels, and what the JIT makes, are code for `target`,
    without it for the machine that this process runs on. Raises MdslError for bytecode that is not safe to run,
    TargetError for a target whose code cannot be executed here."""

    def __init__(
        self,
        module: Module,
        engine: str = "vm",
        threads: int = 1,
        fuel: int | None = None,
        target: Target | None = None,
    ) -> None:
        from mdsl.ir.errors import VerifyError
        from mdsl.vm.program import with_kernels

        self.module, self.engine, self.threads, self.fuel, self.target = module, engine, threads, fuel, target
        try:
            self.program = with_kernels(module, engine, threads, fuel, target)
        except BytecodeError as error:
            raise MdslError(f"error: {error}") from error
        except VerifyError as error:
            raise MdslError(*error.lines()) from error
        except RecursionError:
            raise MdslError("error: a micro-kernel is nested too deeply") from None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.program.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.program.outputs

    @property
    def layouts(self) -> Mapping[str, Layout]:
        return {self.inputs[layout.input].name: layout for layout in self.program.function.layouts}

    def __call__(self, *arrays: Any, **named: object) -> Outputs:
        from mdsl.vm.program import CallError

        if not named and all(type(array) is np.ndarray for array in arrays):
            try:  # the program's own check is the cheap one; what it refuses may yet be convertible
                results = self._run(arrays)
                return results[0] if len(results) == 1 else tuple(results)
            except CallError:
                pass
        return super().__call__(*arrays, **named)

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return self.program(*arrays)
        except MemoryError:
            nbytes = self.program.function.arena + sum(spec.nbytes for spec in self.outputs)
            raise MdslError(f"error: no memory for the {nbytes} bytes of the arena and the outputs") from None

    def bytecode(self) -> Module:
        return self.module

    def __reduce__(self) -> tuple[Any, ...]:
        from mdsl.bytecode.encode import encode

        return _from_bytes, (encode(self.module), self.engine, self.threads, self.fuel, self.target)


def _from_bytes(
    data: bytes, engine: str, threads: int, fuel: int | None, target: Target | None
) -> VmExecutable:
    from mdsl.bytecode.decode import decode

    return VmExecutable(decode(data), engine, threads, fuel, target)


class ReferenceExecutable(Executable):
    """The program as it was written, run op by op in NumPy."""

    engine = "reference"
    threads = 1

    def __init__(self, module: ModuleOp, settings: Settings) -> None:
        self.module, self.settings = module, settings
        self._inputs, self._outputs = signature(module)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        from mdsl.reference import run

        return run(self.module, arrays)

    def bytecode(self) -> Module:
        """Compiled with the settings that `mdsl.compile` was given."""
        from mdsl.compiler.program_cache import bytecode_of

        return bytecode_of(self.module.clone(), self.settings)

    def __reduce__(self) -> tuple[Any, ...]:
        from mdsl.runtime.opened import as_text

        return _from_text, (as_text(self.module), self.settings)


def _from_text(text: str, settings: Settings) -> ReferenceExecutable:
    from mdsl.syntax.parser import parse

    return ReferenceExecutable(parse(text), settings)


class OpenExecutable(Executable):
    """A program with dimensions that get their sizes from the arguments of a call, or with inputs whose numbers decide
    what shapes there are.

    For each combination of sizes and such numbers it is compiled once; the `KEPT` that were used last are kept. In
    `inputs` and `outputs` such a dimension has its name in the size's place (None in an output if it has no name).
    """

    KEPT = 8

    def __init__(
        self,
        program: Opened,
        engine: str,
        threads: int,
        settings: Settings,
        compile: Callable[[Opened, Settings, str, int], Executable],
    ) -> None:
        self.program, self.engine, self.threads, self.settings = program, engine, threads, settings
        self.compile = compile
        # Whoever interrupts a call, as the handler of a signal may, may call as well.
        self._lock, self._compiling = threading.RLock(), threading.RLock()
        self._bound: OrderedDict[tuple[Any, ...], Executable] = OrderedDict()

    @property
    def inputs(self) -> tuple[Spec, ...]:
        return self.program.inputs

    @property
    def outputs(self) -> tuple[Spec, ...]:
        return self.program.outputs

    @property
    def dims(self) -> list[str]:
        """The names of the dimensions without a size, and of the inputs whose numbers must be known."""
        return [*open_dims(self.inputs), *self.program.values]

    def bound(self, given: Mapping[str, Any]) -> Executable:
        """The program for these sizes, and values, of all its `dims`. Raises MdslError."""
        missing = [name for name in self.dims if name not in given]
        if missing:
            raise OpenDimsError(missing)
        key = tuple(given[name] for name in self.dims)
        found = self._known(key)
        if found is None:
            with self._compiling:  # one at a time: another thread may want the same
                found = self._known(key) or self._keep(key, self._compile(given))
        return found

    def fitting(self, arrays: Sequence[np.ndarray]) -> tuple[Executable, Sequence[np.ndarray]]:
        """The program for the arrays of a call, all of whose shapes are known, and those of them that it takes."""
        found, rest = self.bound(self.program.given(arrays)), self.program.rest(arrays)
        return found.fitting(rest)

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        executable, rest = self.fitting(arrays)
        return executable._run(rest)

    def _known(self, key: tuple[Any, ...]) -> Executable | None:
        with self._lock:
            found = self._bound.get(key)
            with suppress(KeyError):
                self._bound.move_to_end(key)
            return found

    def _keep(self, key: tuple[Any, ...], executable: Executable) -> Executable:
        with self._lock:
            self._bound[key] = executable
            while len(self._bound) > self.KEPT:
                self._bound.popitem(last=False)
            return executable

    def _compile(self, given: Mapping[str, Any]) -> Executable:
        program = self.program.knowing({name: given[name] for name in self.dims})
        return self.compile(program, self.settings, self.engine, self.threads)

    def bytecode(self) -> Module:
        if self.program.values and not open_dims(self.inputs):
            listed = ", ".join(f"'{name}'" for name in self.program.values)
            raise MdslError(
                f"error: only a program of known shapes can be saved: bind the values of the inputs {listed}"
            )
        raise OpenDimsError(self.dims, "only a program of known shapes can be saved: ")

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenExecutable, (self.program, self.engine, self.threads, self.settings, self.compile)
