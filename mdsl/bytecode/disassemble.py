"""A module as text for people: `mdsl dis`."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent, wrap

from mdsl.bytecode.isa import Operand
from mdsl.bytecode.module import Argument, BufferArgument, Buffers, Function, Module
from mdsl.bytecode.structure import Step, resolve
from mdsl.support.escapes import one_line


def disassemble(module: Module, kernels: bool = True) -> str:
    """The listing of a module; without the kernels' IR if they are not asked for.

    Raises BytecodeError for code whose blocks do not nest.
    """
    return "\n".join(map(one_line, _lines(module, kernels))) + "\n"


def _lines(module: Module, kernels: bool) -> Iterator[str]:
    for key, value in sorted(module.provenance.items()):
        yield f"; {key}: {value}"
    for index, constant in enumerate(module.constants):
        yield f"constant {index} {constant.spec}  ; {constant.array.nbytes} bytes"
    for index, kernel in enumerate(module.kernels):
        yield f"kernel {index} @{kernel.name}" + (" {" if kernels else "")
        if kernels:
            yield from indent(kernel.ir.rstrip(), "  ").split("\n")
            yield "}"
    for function in module.functions:
        yield from _function(module, function)


def _function(module: Module, function: Function) -> Iterator[str]:
    inputs, outputs = (", ".join(map(str, specs)) for specs in (function.inputs, function.outputs))
    yield f"function @{function.name}({inputs}) -> ({outputs}) {{"
    for given, made in function.donations:
        yield f"  '{function.outputs[made].name}' lies in the memory of '{function.inputs[given].name}'"
    for layout in function.layouts:
        spec = function.inputs[layout.input]
        plain = "x".join(map(str, layout.plain_shape(spec.shape)))
        yield f"  '{spec.name}' lies in blocks: {[*map(list, layout.dims)]} of {plain}"
    buffers = module.buffers(function)
    for index, buffer in enumerate(buffers):
        yield f"  buffer {index} {buffer.kind} '{buffer.name}' {buffer.nbytes} bytes"
    registers = " ".join(f"r{index}:{element}" for index, element in enumerate(function.registers))
    yield from wrap(f"registers {registers}", 108, initial_indent="  ", subsequent_indent="    ")
    steps = resolve(function)
    targets = _targets(steps)
    for index, step in enumerate(steps):
        place = f"{function.offsets[index]:#08x}" if function.offsets else f"{index:6}"
        label = f"L{index}:" if index in targets else ""
        line = f"  {place} {label:>6} {'  ' * step.depth}{_instruction(module, buffers, step)}"
        location = function.locations[index] if function.locations else ""
        yield f"{line}  ; {location}" if location else line.rstrip()
    yield "}"


def _targets(steps: list[Step]) -> set[int]:
    return {
        value
        for step in steps
        for operand, value in step.operands.values()
        if operand.kind == "label" and isinstance(value, int)
    }


def _instruction(module: Module, buffers: Buffers, step: Step) -> str:
    """The operands that are in the file; of the implied ones only where a jump goes."""
    parts = [
        _operand(module, buffers, step, operand)
        for operand, _ in step.operands.values()
        if operand in step.opcode.operands or operand.kind == "label"
    ]
    return f"{step.opcode.mnemonic} {', '.join(parts)}".rstrip()


def _operand(module: Module, buffers: Buffers, step: Step, operand: Operand) -> str:
    name = operand.name
    match operand.kind:
        case "calls":
            calls = (", ".join(_argument(buffers, argument) for argument in call) for call in step.calls())
            return ", ".join(f"({call})" for call in calls)
        case "value":
            return repr(step.value(name))
        case "read" | "write" | "update":
            return f"r{step.number(name)}"
        case "buffer":
            return _buffer(buffers, step.number(name))
        case "kernel":
            number = step.number(name)
            return f"@{module.kernels[number].name}" if number < len(module.kernels) else f"kernel {number}"
        case "label":
            return f"{name} L{step.number(name)}"
        case _:
            return str(step.number(name))


def _argument(buffers: Buffers, argument: Argument) -> str:
    if not isinstance(argument, BufferArgument):
        return f"r{argument.register}"
    text = _buffer(buffers, argument.buffer)
    if argument.register is not None:
        text += f" + r{argument.register}*{argument.stride}"
    return text + (f" + {argument.offset}" if argument.offset else "")


def _buffer(buffers: Buffers, index: int) -> str:
    return f"[{buffers[index].name}]" if index < len(buffers) else f"[buffer {index}]"
