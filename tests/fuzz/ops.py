"""One op of every kind, its attributes, operands, maps and types changed: what the verifier accepts reads as it prints, and
then the reference and the VM compute the same of it, or both refuse it with an error that says where."""

from __future__ import annotations

import re
import sys
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from comparing import as_list, assert_close, tolerance_of

import mdsl
from mdsl.compiler.entry import open_dims, random_arrays, sized
from mdsl.compiler.levels import without_effect
from mdsl.compiler.settings import Settings
from mdsl.dialects import mvm
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.ir import types as t
from mdsl.ir.attributes import ArrayAttr, DictAttr, IntegerAttr, StringAttr, SymbolRefAttr, TypeAttr, UnitAttr
from mdsl.ir.core import Block, BlockArgument, Builder, Op, Region, Value
from mdsl.ir.registry import operations
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from tests.fuzz.mutations import ELEMENTS, elements_everywhere, infer, mutate

SUFFIX = "mir"
CORPUS = Path(__file__).parents[2] / "docs" / "ops.mir"
UNDEFINED = ("tensor.empty", "memref.alloc", "memref.alloca", "memref.view")
"""Ops whose results have no contents yet."""
ARENA = t.MemRefType((256,), t.i8)
KERNEL_ONLY = ("vector.", "memref.prefetch")
CAUTIOUS = re.compile("may use|provably|read-only|must be a dense memref of static shape")
"""What only the VM refuses: an access that it cannot prove, also one that no run comes to, what an entry's
memory is: a view, or not to be written."""
PLACE = re.compile(r"\S+:\d+:\d+|instruction \d+|'[a-z_]+\.\w+': ")
"""Where an error is: a place in the text; of what the loader proves, which has seen no text, the instruction or op."""


@cache
def _corpus() -> ModuleOp:
    return parse(CORPUS.read_text(), "ops.mir")


# -- making a case --------------------------------------------------------------------------------------


def make(seed: int) -> bytes:
    random = Random(seed)
    functions = [
        f
        for f in _corpus().body.ops
        if isinstance(f, FuncOp | mvm.Func) and f.attributes["sym_name"] != StringAttr("nothing")
    ]
    weights = [len(f.body.ops) ** 0.5 for f in functions]
    module = _module_of(random.choices(functions, weights)[0])
    function = module.body.first
    assert function is not None
    op = random.choice([o for o in function.body.ops if not o.has("terminator")])
    if isinstance(function, FuncOp):
        _keep(function, op)
    function.attributes["sym_name"] = StringAttr("main")
    _change(module, op, random)
    if isinstance(function, FuncOp):
        _program(module, function, op)
    return print_module(module, generic=True).encode()


def _change(module: Op, op: Op, random: Random) -> None:
    if random.random() < 0.25:
        elements_everywhere(module, t.f32, random.choice(ELEMENTS))
    values = list(_before(op))
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        mutate(op if op.block is not None else module, values, random)
        if random.random() < 0.8:
            for inner in op.walk():
                infer(inner)


def _before(op: Op) -> list[Value]:
    """The values that the op may read."""
    assert op.block is not None
    found: list[Value] = list(op.block.args)
    for other in op.block.ops:
        if other is op:
            break
        found.extend(other.results)
    return found


def _keep(function: FuncOp, op: Op) -> None:
    """Drops all ops but this one and what it reads."""
    for other in reversed(function.body.ops):
        if other is not op and not other.has("terminator") and not any(r.users for r in other.results):
            other.erase()
        elif other is op:
            for result in op.results:
                _forget(result)


def _forget(value: Value) -> None:
    for user in list(value.users):
        if user.has("terminator"):
            user.operands = []
            continue
        for result in user.results:
            _forget(result)
        user.erase()


def _module_of(function: Op) -> ModuleOp:
    """A module of a copy of the function, first, and of what it refers to."""
    defined = {op.attributes.get("sym_name"): op for op in _corpus().body.ops}
    module, left, seen = ModuleOp.from_parts([], [], {}, [Region()]), [function], {id(function)}
    while left:
        module.body.append(left[0].clone())
        for op in left.pop(0).walk():
            for attr in op.attributes.values():
                other = defined.get(StringAttr(attr.name)) if isinstance(attr, SymbolRefAttr) else None
                if other is not None and id(other) not in seen:
                    seen.add(id(other))
                    left.append(other)
    return module


# -- a program of it, which takes and gives arrays ------------------------------------------------------


def _program(module: ModuleOp, function: FuncOp, op: Op) -> None:
    _give_contents(function, op)
    _give_numbers(function)
    _return_results(function, op)
    if any(o.name.startswith(KERNEL_ONLY) for o in function.walk()):
        _put_into_kernel(module, function)


def _make(name: str, *operands: Any, type: t.Type | None = None, **attributes: Any) -> Op:
    results = None if type is None else [type]
    return operations()[name](*operands, results=results, **attributes)


def _give_contents(function: FuncOp, op: Op) -> None:
    """What is read of new tensors and memory must be something: they become arguments."""
    for other in function.body.ops:
        if other is not op and other.name in UNDEFINED and other.result.type != ARENA:
            other.replace_by(function.body.add_arg(other.result.type, "content"))


def _put_into_kernel(module: ModuleOp, function: FuncOp) -> None:
    """Makes the function a micro-kernel that `@main` dispatches."""
    types = [a.type for a in function.body.args]
    attributes = {"sym_name": StringAttr("kernel"), "function_type": function.attributes["function_type"]}
    arg_attrs = function.attributes["arg_attrs"]
    body = function.regions[0]
    body.parent = None
    body.block.last.erase()
    function.regions = [Region(Block(types, [a.name for a in body.block.args]))]
    function.regions[0].parent = function
    Builder(body.block).add(operations()["ukernel.return"].from_parts([], [], {}))
    kernel = operations()["ukernel.func"].from_parts([], [], attributes, [body])
    module.body.append(kernel)
    builder = Builder(function.body)
    call = operations()["ukernel.dispatch"].from_parts(
        list(function.body.args), [], {"callee": SymbolRefAttr("kernel")}
    )
    builder.add(call)
    for op in kernel.body.ops:
        if op.name == "memref.copy":
            before = call if isinstance(op.operands[1], BlockArgument) and op.operands[0].name else None
            if all(isinstance(v, BlockArgument) for v in op.operands):
                function.body.insert(
                    _make("memref.copy", *(function.body.args[v.index] for v in op.operands)), before
                )
                op.erase()
    builder.add(operations()["func.return"].from_parts([], [], {}))
    function.attributes["arg_attrs"] = arg_attrs


def _give_numbers(function: FuncOp) -> None:
    """Arguments that are numbers become tensors of one number, indices become constants."""
    first = function.body.first
    assert first is not None
    builder = Builder.before(first)
    kept = []
    in_memory = any(isinstance(a.type, t.MemRefType) for a in function.body.args)
    shaped, read = (t.MemRefType, "memref.load") if in_memory else (t.TensorType, "tensor.extract")
    for arg in function.body.args:
        if isinstance(arg.type, t.TensorType | t.MemRefType):
            kept.append(arg)
            continue
        number = arg.type
        new = _constant(builder, 1) if number == t.index else None
        if new is None:
            arg.type = shaped((), number)
            kept.append(arg)
            users = list(arg.users)
            new = builder.value(_make(read, arg, [], type=number))
            for user in users:
                user.replace_operand(arg, new)
        else:
            new.type = number
            arg.replace_by(new)
    for arg in reversed(function.body.args):
        if arg not in kept:
            function.body.erase_arg(arg.index)
    _set_type(function, [])
    function.attributes.pop("arg_attrs", None)


def _constant(builder: Builder, number: int) -> Value:
    return builder.value(_make("arith.constant", value=IntegerAttr(number, t.index), type=t.index))


def _set_type(function: Op, results: list[t.Type]) -> None:
    function.attributes["function_type"] = TypeAttr(
        t.FunctionType(tuple(a.type for a in function.body.args), tuple(results))
    )


def _return_results(function: FuncOp, op: Op) -> None:
    """Returns what the op computes. Memory is an output, filled first: what is only an input may not be written."""
    assert function.body.first is not None and function.body.last is not None
    begin, end = Builder.before(function.body.first), Builder.before(function.body.last)
    memory = [v for v in function.body.args if isinstance(v.type, t.MemRefType)]
    outputs: list[Value] = list(memory)
    for to in memory:
        source = function.body.add_arg(t.MemRefType(to.type.shape, to.type.element), f"{to.name}_before")  # type: ignore[attr-defined]
        begin.add(_make("memref.copy", source, to))
    returned: list[Value] = []
    results = op.results if op.block is not None and op.name not in UNDEFINED else []
    for value in results:
        if memory:
            outputs.append(_store(function, end, value))
        elif isinstance(value.type, t.TensorType):
            returned.append(value)
        else:
            returned.append(
                end.value(_make("tensor.from_elements", [value], type=t.TensorType((1,), value.type)))
            )
    function.body.last.operands = returned
    _set_type(function, [v.type for v in returned])
    output = DictAttr((("mdsl.output", UnitAttr()),))
    attributes = tuple(output if a in outputs else DictAttr(()) for a in function.body.args)
    function.attributes["arg_attrs"] = ArrayAttr(attributes)


def _store(function: FuncOp, end: Builder, value: Value) -> Value:
    """Writes a number, a vector or what memory holds to a new argument."""
    type = value.type
    to = function.body.add_arg(
        t.MemRefType(type.shape, type.element) if isinstance(type, t.ShapedType) else t.MemRefType((), type)
    )
    if isinstance(type, t.VectorType):
        end.add(_make("vector.store", value, to, [_constant(end, 0) for _ in type.shape]))
    elif isinstance(type, t.MemRefType):
        end.add(_make("memref.copy", value, to))
    else:
        end.add(_make("memref.store", value, to, []))
    return to


# -- checking it ----------------------------------------------------------------------------------------


def check(data: bytes) -> None:
    text = data.decode()
    try:
        module = parse(text, "case.mir")
    except mdsl.MdslError as error:
        assert PLACE.search(str(error)), f"no place: {error}"
        return
    printed = print_module(module)
    assert print_module(parse(printed, "printed.mir")) == printed
    wanted = _outcome(text, data, engine="reference")
    for ukernels in (True, False):
        has_effect = "ukernels" not in without_effect(Settings(ukernels), module)
        found = _outcome(text, data, **({"ukernels": ukernels} if has_effect else {}))
        if isinstance(found, str) and CAUTIOUS.search(found):
            continue
        if isinstance(wanted, str) != isinstance(found, str):
            raise AssertionError(
                f"the reference: {_short(wanted)}\nthe VM, ukernels={ukernels}: {_short(found)}"
            )
        if not isinstance(wanted, str) and not isinstance(found, str):
            pair = _written(found, wanted) if "mvm.func" in text else (found, wanted)
            assert_close(*pair, tolerance_of(text), f"ukernels={ukernels}")


def _outcome(text: str, data: bytes, **options: Any) -> list[np.ndarray] | str:
    """The arrays that the program computes, or the error that it ends with."""
    try:
        with np.errstate(all="ignore"):
            program = mdsl.compile(text, **options)
            return as_list(program(*_inputs(program.inputs, zlib.crc32(data))))
    except mdsl.MdslError as error:
        assert PLACE.search(str(error)), f"no place: {error}"
        return str(error)


def _inputs(specs: Any, seed: int) -> list[np.ndarray]:
    """No integer is 0: division by it is undefined."""
    random = Random(seed)
    sizes = {name: random.choice([2, 6]) for name in open_dims(specs)}
    arrays = random_arrays([sized(spec, sizes) for spec in specs], seed)
    return [a % 3 + 1 if a.dtype.kind == "i" else a for a in arrays]


def _written(found: list[np.ndarray], wanted: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The elements that the program has written: the reference fills memory with NaN or -1 first."""
    kept = [(w != -1) if w.dtype.kind == "i" else w == w for w in wanted]
    assert [f.shape for f in found] == [w.shape for w in wanted]
    return [f[k] for f, k in zip(found, kept, strict=True)], [w[k] for w, k in zip(wanted, kept, strict=True)]


def _short(outcome: list[np.ndarray] | str) -> str:
    return (
        outcome.partition("\n")[0] if isinstance(outcome, str) else f"computes {[a.shape for a in outcome]}"
    )
