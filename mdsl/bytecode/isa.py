"""The table of opcodes: the one definition of the bytecode's instructions.

The encoder, the decoder, the verifier, the disassembler, the interpreter's handlers and the JIT are all
made from `OPCODES`. A mnemonic is a name and, after a point, the element type it works on; the arithmetic
opcodes are the ops of the `arith` and `math` dialects, so `arith.addf` on f32 is `addf.f32`, and
`arith.cmpi slt` on i64 is `cmpi.slt.i64`; a cast names its operand's and its result's type.

Blocks are structured. Their closing instructions have no operands of their own: the loader gives them
those of the instruction that opened the block, and the places to jump to (`Opcode.implied`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Literal, NamedTuple

from mdsl.analysis.intervals import INTEGER_BITS, Transfer, transfer_of
from mdsl.arithmetic import ops as arithmetic
from mdsl.bytecode import semantics
from mdsl.bytecode.machine import Machine
from mdsl.bytecode.module import FLOAT_TYPES, TYPES
from mdsl.target.target import ELEMENT_BYTES

Kind = Literal["read", "write", "update", "integer", "value", "buffer", "kernel", "calls", "label"]
"""What an operand is: a register that is read, written or both; an i64; a
value of `type`; a buffer's number; a kernel's number; argument lists; a place in the code."""

Role = Literal["", "open", "divide", "close"]


class Operand(NamedTuple):
    name: str
    kind: Kind
    type: str = "i64"

    @property
    def is_register(self) -> bool:
        return self.kind in ("read", "write", "update")


class Opcode(NamedTuple):
    """An instruction: its operands, its semantics, and its part in a block.

    `group` is the set of handlers that the interpreter compiles together. `transfer` maps the intervals
    of the registers read to that of the register written (see `intervals`).
    """

    mnemonic: str
    operands: tuple[Operand, ...]
    doc: str
    emit: Callable[[Machine], None]
    group: str = "core"
    block: str = ""
    role: Role = ""
    implied: tuple[Operand, ...] = ()
    transfer: Transfer | None = None


def _reads(*names: str, type: str = "i64") -> tuple[Operand, ...]:
    return tuple(Operand(name, "read", type) for name in names)


def _writes(name: str, type: str = "i64") -> Operand:
    return Operand(name, "write", type)


def _labels(*names: str) -> tuple[Operand, ...]:
    return tuple(Operand(name, "label") for name in names)


def _indexed(prefix: str = "") -> tuple[Operand, ...]:
    return *_reads(prefix + "base", prefix + "index"), Operand(prefix + "stride", "integer")


_STEP = Operand("step", "integer")
_LOOP = (_writes("counter"), *_reads("lower", "upper"), _STEP)

_CONTROL = (
    Opcode("loop_begin", _LOOP, "For counter from lower to upper (not included) by step.",
           semantics.loop_begin, block="loop", role="open", implied=_labels("exit")),
    Opcode("loop_end", (), "The end of a loop's body.", semantics.loop_end, block="loop", role="close",
           implied=(Operand("counter", "update"), *_reads("upper"), _STEP, *_labels("body"))),
    Opcode("parallel_begin", _LOOP, "A loop whose trips are shared among the workers, and done when the next instruction runs.",
           semantics.parallel_begin, block="parallel", role="open", implied=_labels("exit")),
    Opcode("parallel_end", (), "The end of a parallel loop's body.", semantics.parallel_end,
           block="parallel", role="close", implied=(Operand("counter", "update"), _STEP, *_labels("body"))),
    Opcode("if_begin", _reads("condition", type="i1"), "Go to the else, or the end, unless condition.",
           semantics.if_begin, block="if", role="open", implied=_labels("otherwise")),
    Opcode("else", (), "What runs when the condition does not hold.", semantics.otherwise,
           block="if", role="divide", implied=_labels("exit")),
    Opcode("if_end", (), "The end of an if.", semantics.nothing, block="if", role="close"),
    Opcode("ret", (), "Return. It is the last instruction of a function and nothing else is.", semantics.ret),
    Opcode("dispatch", (Operand("kernel", "kernel"), Operand("calls", "calls")),
           "Call a micro-kernel on each of a batch of argument lists, in order.", semantics.dispatch),
)  # fmt: skip


def _group(element: str) -> str:
    return "core" if element == "i64" else element


def _moves(element: str) -> Iterable[Opcode]:
    """The opcodes that every element type has."""
    make = partial(Opcode, group=_group(element))
    buffer, count = Operand("buffer", "buffer"), Operand("count", "integer")
    result, value = _writes("result", element), Operand("value", "read", element)
    yield make(f"const.{element}", (result, Operand("value", "value", element)), "result = value.",
               semantics.const)  # fmt: skip
    yield make(f"mov.{element}", (result, Operand("source", "read", element)), "result = source.",
               semantics.mov, transfer=lambda source: source)  # fmt: skip
    yield make(f"select.{element}",
               (result, *_reads("condition", type="i1"), *_reads("then", "otherwise", type=element)),
               "result = then where condition, else otherwise.", semantics.select,
               transfer=lambda condition, then, otherwise: then.join(otherwise))  # fmt: skip
    yield make(f"load.{element}", (result, buffer, *_reads("index")), "result = buffer[index].",
               partial(semantics.load, element=element))  # fmt: skip
    yield make(f"loadx.{element}", (result, buffer, *_indexed()), "result = buffer[base + index * stride].",
               partial(semantics.load_indexed, element=element))  # fmt: skip
    yield make(f"store.{element}", (value, buffer, *_reads("index")), "buffer[index] = value.",
               partial(semantics.store, element=element))  # fmt: skip
    yield make(f"storex.{element}", (value, buffer, *_indexed()), "buffer[base + index * stride] = value.",
               partial(semantics.store_indexed, element=element))  # fmt: skip
    yield make(f"copy.{element}",
               (Operand("target", "buffer"), *_reads("target_index"),
                Operand("source", "buffer"), *_reads("source_index"), count),
               "target[target_index:][:count] = source[source_index:][:count]; they may overlap.",
               partial(semantics.copy, element=element))  # fmt: skip
    yield make(f"fill.{element}", (value, buffer, *_reads("index"), count), "buffer[index:][:count] = value.",
               partial(semantics.fill, element=element))  # fmt: skip


def _fused(element: str) -> Opcode:
    """What the innermost loop of a contraction does; it saves the scalar interpreter three instructions."""
    operands = (
        Operand("sum", "update", element),
        *(Operand("left", "buffer"), *_indexed("left_")),
        *(Operand("right", "buffer"), *_indexed("right_")),
    )
    return Opcode(f"dot.{element}", operands, "sum = sum + left[base + index * stride] * right[...], rounded once.",
                  partial(semantics.dot, element=element), group=_group(element))  # fmt: skip


_ADDRESSES = Opcode(
    "lea",
    (_writes("result"), *_indexed(), Operand("offset", "integer")),
    "result = base + index * stride + offset.",
    semantics.lea,
)


_NAMES = {
    "unary": ("a",),
    "binary": ("a", "b"),
    "ternary": ("a", "b", "c"),
    "compare": ("a", "b"),
    "convert": ("a",),
}
_CLASSES = {"int": tuple(INTEGER_BITS), "float": FLOAT_TYPES}


def _compute(op: str, element: str, result: str, *types: str) -> Opcode:
    """The opcode of an `arith` or `math` op: `types` end its mnemonic."""
    mnemonic = ".".join([op.partition(".")[2].replace(":", "."), *types])
    names = _NAMES[arithmetic.OPS[op].kind]
    return Opcode(
        mnemonic,
        (_writes("result", result), *_reads(*names, type=element)),
        f"result = {op.replace(':', ' ')}({', '.join(names)}).",
        partial(semantics.compute, op=op, names=names, element=element, result=result),
        group=_group(element),
        transfer=transfer_of(op, element, result),
    )


def _arithmetic() -> Iterable[Opcode]:
    """The ops that take and give one type, or compare."""
    for op, signature in arithmetic.OPS.items():
        if signature.kind in ("unary", "binary", "ternary", "compare"):
            for element in _CLASSES[signature.operands[0]]:
                yield _compute(op, element, "i1" if signature.result == "i1" else element, element)


def _casts() -> Iterable[Opcode]:
    """The ops that give another type. An `index_cast` is an `extsi`, a `trunci` or a `mov`."""
    wider = lambda a, b: ELEMENT_BYTES[a] < ELEMENT_BYTES[b] or (a == "i1" and b == "i8")  # noqa: E731
    allowed: dict[str, Callable[[str, str], bool]] = {
        "extf": wider, "truncf": lambda a, b: wider(b, a), "extsi": wider, "extui": wider,
        "trunci": lambda a, b: wider(b, a), "bitcast": lambda a, b: a != b and ELEMENT_BYTES[a] == ELEMENT_BYTES[b],
        "sitofp": lambda a, b: True, "uitofp": lambda a, b: True,
        "fptosi": lambda a, b: True, "fptoui": lambda a, b: True,
    }  # fmt: skip
    for name, allows in allowed.items():
        signature = arithmetic.OPS[f"arith.{name}"]
        for element, result in product(_types(signature.operands[0]), _types(signature.result)):
            if allows(element, result):
                yield _compute(f"arith.{name}", element, result, element, result)


def _types(kind: str) -> tuple[str, ...]:
    return _CLASSES.get(kind) or tuple(element for element in TYPES if element != "i1")


OPCODES: dict[str, Opcode] = {
    opcode.mnemonic: opcode
    for opcode in (
        *_CONTROL,
        _ADDRESSES,
        *(opcode for element in TYPES for opcode in _moves(element)),
        *(_fused(element) for element in FLOAT_TYPES),
        *_arithmetic(),
        *_casts(),
    )
}
"""Every opcode by its mnemonic."""
