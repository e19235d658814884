"""A compiled program that takes and returns NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsl.bytecode.module import BytecodeError, Module, TensorSpec
from mdsl.signature import arrange, describe, signature
from mdsl.syntax.errors import MdslError

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.vm.executable import Program

Outputs = np.ndarray | tuple[np.ndarray, ...]


class Executable:
    """A program, ready to be called: `exe(x, y)` or `exe(image=x)`.

    `inputs` and `outputs` are its TensorSpecs (name, dtype, shape). A call returns the output array, or a
    tuple of them if there are several. Inputs must have the specs' shapes and dtypes; one that is not
    contiguous is copied. May be called from several threads at once, and pickled. Raises MdslError.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine: str
    threads: int

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

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise AssertionError

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{spec.name}: {describe(spec)}" for spec in specs)
            for specs in (self.inputs, self.outputs)
        )
        return f"<Executable ({inputs}) -> ({outputs}), engine {self.engine}, threads {self.threads}>"


class VmExecutable(Executable):
    """Bytecode on the VM's interpreter ("vm") or compiled as a whole ("jit"). Raises MdslError for bytecode
    that is not safe to run."""

    def __init__(self, module: Module, engine: str = "vm", threads: int = 1) -> None:
        from mdsl.codegen.kernels import load_kernels
        from mdsl.ir.core import VerifyError
        from mdsl.vm.executable import Program

        self.module, self.engine, self.threads = module, engine, threads
        try:
            # The kernels own their machine code: they must live as long as the program.
            self.kernels = load_kernels({kernel.name: kernel.ir for kernel in module.kernels})
            self.program: Program = Program(
                module, self.kernels.addresses, self.kernels.signatures, engine, threads
            )
        except (BytecodeError, VerifyError) as error:
            raise MdslError(f"error: {error}") from error
        except RecursionError:
            raise MdslError("error: a micro-kernel is nested too deeply") from None
        self.inputs, self.outputs = self.program.inputs, self.program.outputs

    def __call__(self, *arrays: Any, **named: object) -> Outputs:
        from mdsl.vm.executable import CallError

        if not named and all(type(array) is np.ndarray for array in arrays):
            try:  # the program's own check is the cheap one; what it refuses may yet be convertible
                results = self.program(*arrays)
                return results[0] if len(results) == 1 else tuple(results)
            except CallError:
                pass
        return super().__call__(*arrays, **named)

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return self.program(*arrays)

    def bytecode(self) -> Module:
        return self.module

    def __reduce__(self) -> tuple[Any, ...]:
        from mdsl.bytecode.encode import encode

        return _from_bytes, (encode(self.module), self.engine, self.threads)


def _from_bytes(data: bytes, engine: str, threads: int) -> VmExecutable:
    from mdsl.bytecode.decode import decode

    return VmExecutable(decode(data), engine, threads)


class ReferenceExecutable(Executable):
    """The program as it was written, run op by op in NumPy."""

    engine = "reference"
    threads = 1

    def __init__(self, module: ModuleOp, settings: Mapping[str, Any] | None = None) -> None:
        self.module, self.settings = module, dict(settings or {})
        self.inputs, self.outputs = signature(module)

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        from mdsl.reference import run

        return run(self.module, arrays)

    def bytecode(self) -> Module:
        """Compiled with the settings that `mdsl.compile` was given."""
        from mdsl.api import to_bytecode

        return to_bytecode(self.module.clone(), **self.settings)

    def __reduce__(self) -> tuple[Any, ...]:
        from mdsl.syntax.printer import print_module
        from mdsl.syntax.resources import print_section, used

        return _from_text, (print_module(self.module) + print_section(used(self.module)), self.settings)


def _from_text(text: str, settings: Mapping[str, Any]) -> ReferenceExecutable:
    from mdsl.syntax.parser import parse

    return ReferenceExecutable(parse(text), settings)
