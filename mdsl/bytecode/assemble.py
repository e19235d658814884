"""From the mvm dialect to instructions: numbers buffers, allocates registers, flattens structured control flow.

A value gets a register of its type when it is computed; when its block ends, its register is free for the
blocks that follow. What a loop carries lives in one register for the whole loop: where the value that an
iteration hands on is computed after the last use of the one it replaces, it is computed right into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mdsl.bytecode.module import (
    Argument,
    BufferArgument,
    Constant,
    Function,
    Instruction,
    Kernel,
    Layout,
    Module,
    Operand,
    RegisterArgument,
    TensorSpec,
)
from mdsl.dialects import arith, memref, mvm, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import OUTPUT, RESULT
from mdsl.ir.attributes import DenseAttr, DenseResourceAttr, StringAttr
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import IndexType, MemRefType, Type, dtype_of
from mdsl.syntax.printer import print_module


def assemble(module: ModuleOp, provenance: dict[str, str] | None = None) -> Module:
    """The bytecode of a module whose functions are all `mvm.func`. Raises VerifyError for what it cannot encode."""
    globals = [op for op in module.body.ops if isinstance(op, memref.Global)]
    kernels = [op for op in module.body.ops if isinstance(op, ukernel.UkernelFunc)]
    functions = [op for op in module.body.ops if isinstance(op, mvm.Func)]
    used = {op.symbol for f in functions for op in f.walk() if isinstance(op, mvm.Dispatch)}
    kernels = [k for k in kernels if k.symbol in used]
    tables = _Tables(
        {str(g.attr("sym_name")): i for i, g in enumerate(globals)},
        {k.symbol: i for i, k in enumerate(kernels)},
    )
    return Module(
        functions=[_Assembler(f, tables).function() for f in functions],
        kernels=[Kernel(k.symbol, print_module(k)) for k in kernels],
        constants=[Constant(str(g.attr("sym_name")), _data(g)) for g in globals],
        provenance=provenance or {},
        parsed={k.symbol: k for k in kernels},
    )


def _data(op: memref.Global) -> np.ndarray:
    value = op.attributes.get("initial_value")
    if not isinstance(value, DenseAttr | DenseResourceAttr):
        raise op.error("must have dense data")
    type = op.attr("type")
    assert isinstance(type, MemRefType)
    return np.ascontiguousarray(value.array, dtype_of(type.element)).reshape(type.shape)


class _Tables:
    """Numbers of the module's constants and kernels."""

    def __init__(self, constants: dict[str, int], kernels: dict[str, int]) -> None:
        self.constants = constants
        self.kernels = kernels


def register_type(type: Type) -> str:
    """The type of a register that holds a value of `type`."""
    return "i64" if isinstance(type, IndexType) else str(type)


class _Assembler:
    """One function: registers and buffers given so far, instructions so far."""

    def __init__(self, func: mvm.Func, tables: _Tables) -> None:
        self.func = func
        self.tables = tables
        self.code: list[Instruction] = []
        self.locations: list[str] = []
        self.types: list[str] = []
        self.free: dict[str, list[int]] = {}
        self.registers: dict[Value, int] = {}
        self.buffers: dict[Value, int] = {}
        self.scopes: list[list[int]] = []
        self.arena = 0
        inputs, outputs = func.inputs(), func.outputs()
        called = [a.get(RESULT) for a in func.arg_attributes() if OUTPUT in a]
        self.inputs = list(map(_spec, inputs))
        self.outputs = [
            _spec(v)._replace(name=name.value) if isinstance(name, StringAttr) else _spec(v)
            for v, name in zip(outputs, called, strict=True)
        ]
        self.donations = tuple((inputs.index(v), k) for k, v in enumerate(outputs) if v in inputs)
        self.layouts = tuple(
            Layout(inputs.index(v), tuple(map(tuple, groups))) for v, groups in func.layouts().items()
        )
        # The memory of a donated input is reached as the output.
        self.buffers.update({v: number for number, v in enumerate((*inputs, *outputs))})

    def function(self) -> Function:
        self._block(self.func.body)
        return Function(
            self.func.symbol,
            tuple(self.inputs),
            tuple(self.outputs),
            tuple(self.types),
            self.arena,
            self.code,
            tuple(self.locations),
            donations=self.donations,
            layouts=self.layouts,
        )

    # Registers ----------------------------------------------------------------------------------------------

    def _new(self, type: Type) -> int:
        name = register_type(type)
        spare = self.free.setdefault(name, [])
        if spare:
            register = spare.pop()
        else:
            register = len(self.types)
            self.types.append(name)
        self.scopes[-1].append(register)
        return register

    def _write(self, value: Value) -> int:
        """The register that `value` is computed into."""
        if value not in self.registers:
            self.registers[value] = self._new(value.type)
        return self.registers[value]

    def _emit(self, op: Op, opcode: str, *operands: Operand) -> None:
        self.code.append(Instruction(opcode, operands))
        origin = op.origin
        self.locations.append("" if origin is None else origin.place)

    def _move(self, op: Op, target: int, source: int) -> None:
        if target != source:
            self._emit(op, f"mov.{self.types[target]}", target, source)

    # Structure ----------------------------------------------------------------------------------------------

    def _block(self, block: Block) -> None:
        self.scopes.append([])
        for op in block.ops:
            _EMITTERS.get(type(op), _Assembler._compute)(self, op)
        for register in self.scopes.pop():
            self.free[self.types[register]].append(register)

    def _loop(self, op: mvm.Loop) -> None:
        carried = [
            self._carry(op, init, result) for init, result in zip(op.operands[3:], op.results, strict=True)
        ]
        # The counter outlives the body's scope: the closing instruction reads it.
        counter = self._write(op.iv)
        for argument, register in zip(op.carried, carried, strict=True):
            self.registers[argument] = register
        for argument, value, register in zip(op.carried, op.body.terminator.operands, carried, strict=True):
            if value not in self.registers and _can_share(argument, value, op.body):
                self.registers[value] = register
        name = "parallel" if isinstance(op, mvm.Parallel) else "loop"
        lower, upper = (self.registers[v] for v in op.operands[:2])
        self._emit(op, f"{name}_begin", counter, lower, upper, op.step_size)
        self._block(op.body)
        self._emit(op, f"{name}_end")

    def _carry(self, op: Op, init: Value, result: Value) -> int:
        register = self._write(result)
        self._move(op, register, self.registers[init])
        return register

    def _yield(self, op: mvm.Yield) -> None:
        owner = op.parent
        assert owner is not None
        targets = [self.registers[r] for r in owner.results]
        sources = [self.registers[v] for v in op.operands]
        # All are read before any is written: a target that another still reads waits in a spare register.
        pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if t != s]
        written = {t for t, _ in pairs}
        if any(s in written for _, s in pairs):
            spares = [
                self._new(v.type) for v, t, s in zip(op.operands, targets, sources, strict=True) if t != s
            ]
            for spare, (_, source) in zip(spares, pairs, strict=True):
                self._move(op, spare, source)
            pairs = [(t, spare) for spare, (t, _) in zip(spares, pairs, strict=True)]
        for target, source in pairs:
            self._move(op, target, source)

    def _if(self, op: mvm.If) -> None:
        for result in op.results:
            self._write(result)
        self._emit(op, "if_begin", self.registers[op.operands[0]])
        then, otherwise = op.branches
        self._block(then)
        if otherwise.last is not None:
            self._emit(op, "else")
            self._block(otherwise)
        self._emit(op, "if_end")

    def _return(self, op: Op) -> None:
        self._emit(op, "ret")

    # Buffers ------------------------------------------------------------------------------------------------

    def _constant_buffer(self, op: mvm.Constant) -> None:
        self.buffers[op.result] = len(self.inputs) + len(self.outputs) + self.tables.constants[op.symbol]

    def _arena(self, op: memref.Alloc) -> None:
        type = memref_of(op.result)
        if self.arena:
            raise op.error("a function has one arena; run plan-memory first")
        self.arena = max(type.nbytes, 1)
        self.buffers[op.result] = len(self.inputs) + len(self.outputs) + len(self.tables.constants)

    # Instructions -------------------------------------------------------------------------------------------

    def _reads(self, values: Sequence[Value]) -> list[int]:
        return [self.registers[v] for v in values]

    def _constant(self, op: arith.Constant) -> None:
        value = arith.constant_of(op.result)
        if value is None:
            raise op.error("dense data must be a memref.global")
        self._emit(op, f"const.{register_type(op.result.type)}", self._write(op.result), value)

    def _compute(self, op: Op) -> None:
        sources = self._reads(op.operands)
        opcode, extra = _mnemonic(op)
        self._emit(op, opcode, self._write(op.results[0]), *sources, *extra)

    def _load(self, op: mvm.Load) -> None:
        buffer, *places = op.operands
        places = self._reads(places)
        target, type = self._write(op.result), register_type(op.result.type)
        if len(places) == 1:
            self._emit(op, f"load.{type}", target, self.buffers[buffer], places[0])
        else:
            self._emit(op, f"loadx.{type}", target, self.buffers[buffer], *places, op.attr("stride"))

    def _store(self, op: mvm.Store) -> None:
        value, buffer, *places = op.operands
        source, places = self.registers[value], self._reads(places)
        type = register_type(value.type)
        if len(places) == 1:
            self._emit(op, f"store.{type}", source, self.buffers[buffer], places[0])
        else:
            self._emit(op, f"storex.{type}", source, self.buffers[buffer], *places, op.attr("stride"))

    def _dot(self, op: mvm.Dot) -> None:
        total, left, *left_places = op.operands[:4]
        right, *right_places = op.operands[4:]
        target = self._write(op.result)
        self._move(op, target, self.registers[total])
        operands = [self.buffers[left], *self._reads(left_places), op.attr("left_stride")]
        operands += [self.buffers[right], *self._reads(right_places), op.attr("right_stride")]
        self._emit(op, f"dot.{op.result.type}", target, *operands)

    def _copy(self, op: mvm.Copy) -> None:
        target, target_at, source, source_at = op.operands
        places = [
            self.buffers[target],
            self.registers[target_at],
            self.buffers[source],
            self.registers[source_at],
        ]
        self._emit(op, f"copy.{register_type(op.attr('element'))}", *places, op.attr("count"))

    def _fill(self, op: mvm.Fill) -> None:
        value, buffer, at = op.operands
        type = register_type(value.type)
        self._emit(
            op,
            f"fill.{type}",
            self.registers[value],
            self.buffers[buffer],
            self.registers[at],
            op.attr("count"),
        )

    def _dispatch(self, op: mvm.Dispatch) -> None:
        arguments: list[Argument] = []
        for buffer, register, stride, offset in op.arguments():
            number = None if register is None else self.registers[register]
            if buffer is None:
                assert number is not None
                arguments.append(RegisterArgument(number))
            else:
                arguments.append(BufferArgument(self.buffers[buffer], number, stride, offset))
        count = len(arguments) // op.attr("batch")
        calls = tuple(tuple(arguments[i : i + count]) for i in range(0, len(arguments), count))
        self._emit(op, "dispatch", self.tables.kernels[op.symbol], calls)


_EMITTERS: dict[type[Op], Callable[..., None]] = {
    mvm.Loop: _Assembler._loop,
    mvm.Parallel: _Assembler._loop,
    mvm.Yield: _Assembler._yield,
    mvm.If: _Assembler._if,
    mvm.Return: _Assembler._return,
    mvm.Constant: _Assembler._constant_buffer,
    memref.Alloc: _Assembler._arena,
    arith.Constant: _Assembler._constant,
    mvm.Load: _Assembler._load,
    mvm.Store: _Assembler._store,
    mvm.Dot: _Assembler._dot,
    mvm.Copy: _Assembler._copy,
    mvm.Fill: _Assembler._fill,
    mvm.Dispatch: _Assembler._dispatch,
}


def _spec(value: Value) -> TensorSpec:
    type = memref_of(value)
    return TensorSpec(value.name or "arg", register_type(type.element), type.shape)


def _can_share(argument: Value, value: Value, body: Block) -> bool:
    """True if `value` may be computed into the register of the carried `argument` that it replaces."""
    owner = value.owner
    if not isinstance(owner, Op) or owner.block is not body or isinstance(owner, arith.Constant | mvm.If):
        return False
    # An inner loop may go on in the same register if the argument is only where it starts.
    if any(
        argument in inner.operands
        for region in owner.regions
        for op in region.block.ops
        for inner in op.walk()
    ):
        return False
    if list(body.terminator.operands).count(value) != 1:
        return False
    later = owner.next
    while later is not None:
        if any(argument in inner.operands for inner in later.walk()):
            return False
        later = later.next
    return True


def _mnemonic(op: Op) -> tuple[str, tuple[int, ...]]:
    """The opcode of an op on scalars, and its immediate operands."""
    if isinstance(op, mvm.Lea):
        return "lea", (op.attr("stride"), op.attr("offset"))
    name = op.name.split(".")[1]
    source, target = register_type(op.operands[0].type), register_type(op.results[0].type)
    if isinstance(op, arith.Compare):
        return f"{name}.{op.word}.{source}", ()
    if isinstance(op, arith.Select):
        return f"select.{target}", ()
    if isinstance(op, arith.Bitcast) and source == target:
        return f"mov.{target}", ()
    if isinstance(op, arith.IndexCast):
        widths = int(source[1:]), int(target[1:])
        kind = "mov" if widths[0] == widths[1] else "extsi" if widths[0] < widths[1] else "trunci"
        return (f"mov.{target}" if kind == "mov" else f"{kind}.{source}.{target}"), ()
    if isinstance(op, arith.Cast):
        return f"{name}.{source}.{target}", ()
    return f"{name}.{source}", ()
