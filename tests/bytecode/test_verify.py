"""What the verifier accepts and refuses, one table of programs each."""

import numpy as np
import pytest

from mdsl.analysis.footprints import MAX_ARGUMENTS, MAX_BYTES, KernelArgument
from mdsl.bytecode.module import (
    BufferArgument,
    BytecodeError,
    Constant,
    Function,
    Instruction,
    Kernel,
    Module,
    RegisterArgument,
    TensorSpec,
)
from mdsl.bytecode.verify import Observe, verify

X, Y, W, ARENA = range(4)
"""An input and an output of 16 f32, a constant of 4, an arena of 64 bytes."""

TYPES = ("i64",) * 10 + ("f32", "f32", "i1", "i32")
F0, F1, BIT, NARROW = 10, 11, 12, 13

SIGNATURES = {
    "k": [
        KernelArgument("read", 16),
        KernelArgument("write", 16, alignment=4),
        KernelArgument("index", interval=(0, 7)),
    ],
    "nothing": [],
    "everything": [KernelArgument("read", 1)] * (MAX_ARGUMENTS + 1),
}
KERNEL, UNKNOWN, NOTHING, EVERYTHING = range(4)


def check(*code: tuple, observe: Observe | None = None, arena: int = 64) -> list[int]:
    """Verifies the code; the bytes of the output that it may write."""
    instructions = [Instruction(name, tuple(operands)) for name, *operands in (*code, ("ret",))]
    inputs, outputs = (TensorSpec("x", "f32", (16,)),), (TensorSpec("y", "f32", (16,)),)
    function = Function("main", inputs, outputs, TYPES, arena, instructions)
    constants = [Constant("w", np.zeros(4, np.float32))]
    kernels = [Kernel(name, "") for name in ("k", "unknown", "nothing", "everything")]
    return verify(Module([function], kernels, constants), SIGNATURES, observe)["main"]


def const(register: int, value: int) -> tuple:
    return "const.i64", register, value


ONE = ("const.f32", F0, 1.0)
ADD = ("addf.f32", F0, F0, F0)
LOST = (("parallel_begin", 3, 0, 1, 1), ONE, ("parallel_end",))
LOOP = (const(0, 0), const(1, 16), ("loop_begin", 2, 0, 1, 1))
PAIR = (BufferArgument(X, 2, 16), BufferArgument(Y, 2, 16))

ACCEPTED = {
    "counter": (*LOOP, ("load.f32", F0, X, 2), ("store.f32", F0, Y, 2), ("loop_end",)),
    "tiles": (const(0, 0), const(1, 4), const(3, 4), ("loop_begin", 2, 0, 1, 1), ("loop_begin", 4, 0, 3, 1),
              ("loadx.f32", F0, X, 4, 2, 4), ("loop_end",), ("loop_end",)),
    "grid of the step": (const(0, 0), const(1, 15), ("loop_begin", 2, 0, 1, 4), ("lea", 3, 2, 2, 0, 3),
                         ("load.f32", F0, X, 3), ("loop_end",)),
    "remainder": (const(0, 12), const(1, 16), ("loop_begin", 2, 0, 1, 4), ("lea", 3, 2, 2, 0, 3),
                  ("load.f32", F0, X, 3), ("loop_end",)),
    "clamped": (*LOOP, ("load.i32", NARROW, X, 2), ("extsi.i32.i64", 3, NARROW), const(4, 15), const(5, 0),
                ("minsi.i64", 3, 3, 4), ("maxsi.i64", 3, 3, 5), ("load.f32", F0, X, 3), ("loop_end",)),
    "masked": (*LOOP, ("load.i64", 3, ARENA, 0), const(4, 7), ("andi.i64", 3, 3, 4), ("load.f32", F0, X, 3),
               ("loop_end",)),
    "remainder of a division": (*LOOP, const(4, 4), ("remsi.i64", 3, 2, 4), ("load.f32", F0, W, 3),
                                ("loop_end",)),
    "quotient": (*LOOP, const(4, 4), ("divsi.i64", 3, 2, 4), ("load.f32", F0, W, 3), ("loop_end",)),
    "carried value": (ONE, *LOOP, ("load.f32", F1, X, 2), ("addf.f32", F0, F0, F1), ("loop_end",),
                      ("store.f32", F0, Y, 0)),
    "written on every way": (*LOOP, ("loop_end",), ("load.f32", F1, X, 0), ("cmpf.olt.f32", BIT, F1, F1),
                             ("if_begin", BIT), const(3, 1), ("else",), const(3, 2), ("if_end",),
                             ("store.f32", F1, Y, 3)),
    "written by a loop that runs": (*LOOP, ("load.f32", F0, X, 2), ("loop_end",), ("store.f32", F0, Y, 0)),
    "bounds of a triangle": (*LOOP, const(3, 16), ("loop_begin", 4, 2, 3, 1), ("load.f32", F0, X, 4),
                             ("loop_end",), ("loop_end",)),
    "selected index": (*LOOP, const(3, 15), ("load.f32", F0, X, 2), ("cmpf.olt.f32", BIT, F0, F0),
                       ("select.i64", 4, BIT, 2, 3), ("load.f32", F0, X, 4), ("loop_end",)),
    "dispatch": (const(0, 0), const(1, 4), ("loop_begin", 2, 0, 1, 1),
                 ("dispatch", 0, ((*PAIR, RegisterArgument(2)),)), ("loop_end",)),
    "parallel in a loop": (*LOOP, ("parallel_begin", 3, 0, 1, 2), ("load.f32", F0, X, 2), ("load.f32", F0, X, 3),
                           ("parallel_end",), ("loop_end",)),
    "parallel under a number of the arena": (
        const(0, 0), const(1, 16), ("load.i1", BIT, ARENA, 0), ("if_begin", BIT), ("parallel_begin", 3, 0, 1, 1),
        ("load.f32", F0, X, 3), ("parallel_end",), ("if_end",)),
    "parallel after parallel": (
        const(0, 0), const(1, 16), *(("parallel_begin", 3, 0, 1, 1), ("load.f32", F0, X, 3), ("parallel_end",)) * 2),
    "written by a trip before it is read": (
        const(0, 0), const(1, 16), const(4, 99), ("parallel_begin", 3, 0, 1, 1), ("mov.i64", 4, 3),
        ("load.f32", F0, X, 4), ("parallel_end",)),
    "lost in a parallel loop, written by the trip before it ends": (
        ONE, *LOOP, ADD, *LOST, ONE, ("loop_end",), ADD),
    "lost in a parallel loop, written by each trip first": (ONE, *LOOP, ONE, ADD, *LOST, ("loop_end",)),
    "lost on one way, written on both after it": (
        ONE, *LOOP, ADD, *LOST, ("load.i1", BIT, X, 0), ("if_begin", BIT), ONE, ("else",), ONE, ("if_end",), ("loop_end",)),
    "branches do not see each other's numbers": (
        const(0, 0), const(3, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), const(3, 16), ("else",),
        ("load.f32", F0, X, 3), ("if_end",)),
    "numbers from a branch in a branch": (
        const(0, 0), const(3, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), ("if_begin", BIT), const(3, 16),
        ("if_end",), ("else",), ("load.f32", F0, X, 3), ("if_end",)),
    "both signs of a stride": (*LOOP, const(3, 15), ("loadx.f32", F0, X, 3, 2, -1), ("loop_end",)),
    "largest and least number": (("const.i64", 0, 2**63 - 1), ("const.i64", 0, -(2**63))),
    "copy and fill": (const(0, 0), ONE, ("copy.f32", ARENA, 0, X, 0, 16), ("fill.f32", F0, Y, 0, 16)),
}  # fmt: skip


@pytest.mark.parametrize("code", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(code: tuple) -> None:
    check(*code)


def dispatch(
    a: object = PAIR[0], b: object = PAIR[1], c: object = RegisterArgument(2), kernel: int = 0
) -> tuple:
    return (
        const(0, 0),
        const(1, 4),
        ("loop_begin", 2, 0, 1, 1),
        ("dispatch", kernel, ((a, b, c),)),
        ("loop_end",),
    )


def test_observes_the_bytes_of_every_pointer_over_all_trips() -> None:
    seen: list[tuple] = []
    whole = BufferArgument(W)
    check(
        *dispatch(), *dispatch(a=whole), observe=lambda function, *rest: seen.append((function.name, *rest))
    )
    trips = (0, 3 * 16 + 15)
    assert seen == [
        ("main", 3, X, trips),
        ("main", 3, Y, trips),
        ("main", 8, W, (0, 15)),
        ("main", 8, Y, trips),
    ]


ARENA_NUMBER = (const(0, 0), const(1, 16), ("load.i64", 5, ARENA, 0), const(4, 4), ("minsi.i64", 5, 5, 4))
"""Register 5 holds at most 4."""
ARENA_PLACE = (*ARENA_NUMBER, ("maxsi.i64", 5, 5, 0))
"""As it, and not negative."""
INPUT_PLACE = (const(0, 0), const(1, 15), ("load.i64", 5, X, 0), const(4, 3), ("minsi.i64", 5, 5, 4),
               ("maxsi.i64", 5, 5, 0))  # fmt: skip
"""Register 5 holds 0 to 3."""
ON_ONE_TRIP = BufferArgument(Y)

REFUSED = {
    "load after the end": ((const(0, 0), const(1, 17), ("loop_begin", 2, 0, 1, 1), ("load.f32", F0, X, 2),
                            ("loop_end",)), "may use elements [0, 16] of 'x', which has 16 of f32"),
    "load before the start": ((const(0, -1), ("load.f32", F0, X, 0)), "[-1, -1]"),
    "wider element": ((const(0, 8), ("load.i64", 1, X, 0)), "which has 8 of i64"),
    "store to an input": ((ONE, const(0, 0), ("store.f32", F0, X, 0)), "writes to 'x', which is read-only"),
    "store to a constant": ((ONE, const(0, 0), ("store.f32", F0, W, 0)), "writes to 'w', which is read-only"),
    "fill a constant": ((ONE, const(0, 0), ("fill.f32", F0, W, 0, 4)), "read-only"),
    "copy to an input": ((const(0, 0), ("copy.f32", X, 0, Y, 0, 4)), "read-only"),
    "copy too much": ((const(0, 0), ("copy.f32", Y, 0, X, 0, 17)), "elements [0, 16]"),
    "copy nothing": ((const(0, 0), ("copy.f32", Y, 0, X, 0, 0)), "a count of 0"),
    "copy less than nothing": ((const(0, 0), ("copy.f32", Y, 0, X, 0, -1)), "a count of -1"),
    "copy from beyond the end": ((const(0, 0), ("copy.f32", Y, 0, W, 0, 5)), "elements [0, 4] of 'w'"),
    "copy to beyond the end": ((const(0, 0), const(1, 1), ("copy.f32", Y, 1, X, 0, 16)), "[1, 16] of 'y'"),
    "fill too much": ((ONE, const(0, 0), ("fill.f32", F0, Y, 0, 17)), "elements [0, 16] of 'y'"),
    "offset of an address": ((const(0, 0), ("lea", 3, 0, 0, 1, 16), ("load.f32", F0, X, 3)), "[16, 16] of 'x'"),
    "base of an access": ((const(0, 16), const(1, 0), ("loadx.f32", F0, X, 0, 1, 1)), "[16, 16] of 'x'"),
    "base below 0": ((const(0, -1), const(1, 0), ("loadx.f32", F0, X, 0, 1, 1)), "[-1, -1] of 'x'"),
    "store at a stride": ((ONE, *LOOP, ("storex.f32", F0, Y, 0, 2, 2), ("loop_end",)), "[0, 30] of 'y'"),
    "arena": ((const(0, 16), ("load.f32", F0, ARENA, 0)), "which has 16"),
    "stride": ((*LOOP, ("loadx.f32", F0, X, 0, 2, 2), ("loop_end",)), "[0, 30]"),
    "dot": ((ONE, *LOOP, ("dot.f32", F0, X, 0, 2, 1, W, 0, 2, 1), ("loop_end",)), "[0, 15] of 'w'"),
    "dot's other side": ((ONE, *LOOP, ("dot.f32", F0, W, 0, 2, 1, X, 0, 2, 1), ("loop_end",)), "[0, 15] of 'w'"),
    "dot's sum": ((*LOOP, ("dot.f32", F0, X, 0, 2, 1, X, 0, 2, 1), ("loop_end",)), "register 10 may be read"),
    "carried index": ((const(3, 0), *LOOP, ("load.f32", F0, X, 3), ("addi.i64", 3, 3, 1), ("loop_end",)),
                      "of 'x'"),
    "index from memory": ((const(0, 0), ("load.i64", 1, ARENA, 0), ("load.f32", F0, X, 1)), "of 'x'"),
    "half a clamp": ((const(0, 0), ("load.i64", 1, ARENA, 0), const(2, 15), ("minsi.i64", 1, 1, 2),
                      ("load.f32", F0, X, 1)), "15] of 'x'"),
    "wrapped index": ((const(0, 2**62), ("lea", 1, 0, 0, 3, 0), ("load.f32", F0, X, 1)), "of 'x'"),
    "wrapped, then limited": ((const(0, 2**62), const(4, 15), ("lea", 1, 0, 0, 2, 0), ("minsi.i64", 1, 1, 4),
                               ("load.f32", F0, X, 1)), "15] of 'x'"),
    "start that is not on the grid": ((*INPUT_PLACE, ("loop_begin", 2, 5, 1, 4), ("lea", 3, 2, 0, 0, 2),
                                       ("load.f32", F0, X, 3), ("loop_end",)), "[2, 16] of 'x'"),
    "never written": ((("load.f32", F0, X, 5),), "register 5 may be read before it is written"),
    "written on one way": ((const(0, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), const(3, 1),
                            ("if_end",), ("load.f32", F0, X, 3)), "register 3 may be read"),
    "written by a loop that may not run": ((const(0, 0), ("load.i64", 1, X, 0), const(5, 100),
                                            ("minsi.i64", 1, 1, 5), ("loop_begin", 2, 0, 1, 1), const(3, 0),
                                            ("loop_end",), ("load.f32", F0, X, 3)), "register 3"),
    "written by a loop of no trips": ((const(0, 0), ("loop_begin", 2, 0, 0, 1), const(3, 0), ("loop_end",),
                                       ("load.f32", F0, X, 3)), "register 3"),
    "written by a loop that may start at its end": (
        (*INPUT_PLACE, const(1, 3), ("loop_begin", 2, 5, 1, 1), const(3, 0), ("loop_end",), ("load.f32", F0, X, 3)),
        "register 3"),
    "written by a loop in a branch": (
        (*LOOP[:2], ("load.i1", BIT, X, 0), ("if_begin", BIT), ("loop_begin", 2, 0, 1, 1), const(3, 0), ("loop_end",),
         ("if_end",), ("load.f32", F0, X, 3)), "register 3"),
    "written by who has a share": ((const(0, 0), const(1, 16), ("parallel_begin", 2, 0, 1, 1), const(3, 0),
                                    ("parallel_end",), ("load.f32", F0, X, 3)), "register 3"),
    "written before and by a trip": (
        (const(0, 0), const(1, 16), const(3, 0), ("parallel_begin", 2, 0, 1, 1), const(3, 1), ("parallel_end",),
         ("load.f32", F0, X, 3)), "register 3 may be read"),
    "written before a parallel loop, read by a trip that writes it": (
        (const(0, 0), const(1, 16), const(3, 0), ("parallel_begin", 2, 0, 1, 1), ("load.f32", F0, X, 3), const(3, 1),
         ("parallel_end",)), "register 3 may be read"),
    "written by the trip before": (
        (const(0, 0), const(1, 16), ONE, ("parallel_begin", 2, 0, 1, 1), ("addf.f32", F0, F0, F0), ("parallel_end",)),
        "register 10 may be read"),
    "added up by trips": (
        (const(0, 0), const(1, 16), ONE, ("parallel_begin", 2, 0, 1, 1), ("dot.f32", F0, X, 0, 2, 1, X, 0, 2, 1),
         ("parallel_end",)), "register 10 may be read"),
    "lost in a parallel loop, read by the next trip around it": (
        (ONE, *LOOP, ADD, *LOST, ("loop_end",)), "register 10 may be read"),
    "lost in a branch of a loop, read by the next trip": (
        (ONE, *LOOP, ("load.i1", BIT, X, 0), ADD, ("if_begin", BIT), *LOST, ("else",), ADD, ("if_end",), ("loop_end",)),
        "register 10 may be read"),
    "lost two loops further in, read by the next trip of the outermost": (
        (ONE, *LOOP, ADD, ("loop_begin", 4, 0, 1, 1), *LOST, ("loop_end",), ("loop_end",)), "register 10 may be read"),
    "counter of a loop, read by the next trip around it": (
        (*LOOP[:2], const(3, 0), LOOP[2], ("addi.i64", 4, 3, 3), ("loop_begin", 3, 0, 1, 1), ("loop_end",),
         ("loop_end",)), "register 3 may be read"),
    "counter after the parallel loop": (
        (const(0, 0), const(1, 16), ("parallel_begin", 2, 0, 1, 1), ("parallel_end",), ("load.f32", F0, X, 2)),
        "register 2 may be read"),
    "counter after the loop": ((*LOOP, ("loop_end",), ("load.f32", F0, X, 2)), "register 2"),
    "written counter": ((*LOOP, const(2, 0), ("loop_end",)), "writes to its counter or its bound"),
    "written bound": ((*LOOP, const(1, 99), ("loop_end",)), "writes to its counter or its bound"),
    "counter that is the bound": ((const(0, 0), const(1, 16), ("loop_begin", 1, 0, 1, 1), ("loop_end",)),
                                  "writes to its counter or its bound"),
    "counter that is the bound of shared trips": ((const(0, 0), const(1, 16), ("parallel_begin", 1, 0, 1, 1),
                                                   ("parallel_end",)), "writes to its counter or its bound"),
    "counter that is both bounds": ((const(0, 0), ("loop_begin", 0, 0, 0, 1), ("loop_end",)),
                                    "writes to its counter or its bound"),
    "start of a loop whose counter it is": ((const(0, 0), const(1, 16), ("loop_begin", 0, 0, 1, 1), ("loop_end",),
                                             ("load.f32", F0, X, 0)), "register 0 may be read"),
    "overwritten by its own sum": ((const(0, 8), ("addi.i64", 0, 0, 0), ("load.f32", F0, X, 0)), "[16, 16]"),
    "written in both branches, once too large": (
        (const(0, 0), const(3, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), const(3, 16), ("else",), const(3, 1),
         ("if_end",), ("load.f32", F0, X, 3)), "[1, 16]"),
    "written twice in a branch": (
        (const(0, 0), const(3, 16), ("load.i1", BIT, X, 0), ("if_begin", BIT), const(3, 0), const(3, 1), ("if_end",),
         ("load.f32", F0, X, 3)), "[1, 16]"),
    "written before a branch that is not taken": (
        (const(0, 0), const(3, 16), ("load.i1", BIT, X, 0), ("if_begin", BIT), ("else",), const(3, 1), ("if_end",),
         ("load.f32", F0, X, 3)), "[1, 16]"),
    "written in a block in a branch": (
        (const(0, 0), const(3, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), ("if_begin", BIT), const(3, 16),
         ("if_end",), ("else",), ("load.f32", F0, X, 3), ("if_end",), ("load.f32", F0, X, 3)), "[0, 16]"),
    "inner counter": ((*LOOP, ("loop_begin", 2, 0, 1, 1), ("loop_end",), ("loop_end",)), "its counter"),
    "step of zero": ((const(0, 0), ("loop_begin", 2, 0, 0, 0), ("loop_end",)), "a step of 0"),
    "step back": ((const(0, 0), ("loop_begin", 2, 0, 0, -1), ("loop_end",)), "a step of -1"),
    "endless": ((const(0, 0), ("load.i64", 1, X, 0), ("loop_begin", 2, 0, 1, 2), ("loop_end",)),
                "may overflow: "),
    "near the end": ((const(0, 0), const(1, 2**63 - 1), ("loop_begin", 2, 0, 1, 2), ("loop_end",)),
                "may overflow: "),
    "open loop": (LOOP, "'loop_begin' without its 'loop_end'"),
    "closed twice": ((*LOOP, ("loop_end",), ("loop_end",)), "'loop_end' without its 'loop_begin'"),
    "crossed": ((*LOOP, ("load.i1", BIT, X, 0), ("if_begin", BIT), ("loop_end",), ("if_end",)), "'loop_end' without"),
    "else alone": ((("else",),), "'else' without its 'if_begin'"),
    "two elses": ((const(0, 0), ("load.i1", BIT, X, 0), ("if_begin", BIT), ("else",), ("else",),
                   ("if_end",)), "a second 'else'"),
    "too deep": ((const(0, 0), ("load.i1", BIT, X, 0), *(("if_begin", BIT),) * 65, *(("if_end",),) * 65), "more than 64 blocks"),
    "early return": ((("ret",),), "'ret' before the end"),
    "unknown opcode": ((("jump", 3),), "unknown opcode 'jump'"),
    "one operand more": ((const(0, 0), ("mov.i64", 3, 0, 0)), "has 3 operands, not 2"),
    "missing operand": ((("mov.i64", 3),), "has 1 operands, not 2"),
    "register number": ((const(99, 0),), "register 99 of 14"),
    "register at the end": ((const(14, 0),), "register 14 of 14"),
    "register below 0": ((("load.f32", -1, X, 0),), "register -1 of 14"),
    "buffer below 0": ((const(0, 0), ("load.f32", F0, -1, 0)), "buffer -1 of 4"),
    "kernel below 0": (dispatch(kernel=-1), "kernel -1 of 4"),
    "stride beyond 64 bits": ((const(0, 0), ("lea", 1, 0, 0, 2**63, 0)), "'stride' is no 64-bit integer"),
    "offset beyond 64 bits": ((const(0, 0), ("lea", 1, 0, 0, 1, -(2**63) - 1)), "'offset' is no 64-bit integer"),
    "stride that is no integer": ((const(0, 0), ("lea", 1, 0, 0, 1.0, 0)), "'stride' is no 64-bit integer"),
    "number beyond 64 bits": ((const(0, 2**63),), "9223372036854775808 is no i64"),
    "number that is none": ((("const.f32", F0, ()),), "() is no f32"),
    "float for an integer": ((const(0, 1.0),), "1.0 is no i64"),
    "register type": ((("const.f32", 0, 1.0),), "register 0 is i64, not f32"),
    "buffer number": ((const(0, 0), ("load.f32", F0, 4, 0)), "buffer 4 of 4"),
    "constant of the wrong type": ((("const.i1", BIT, 2),), "2 is no i1"),
    "negative bit": ((("const.i1", BIT, -1),), "-1 is no i1"),
    "parallel in parallel": ((const(0, 0), ("parallel_begin", 2, 0, 0, 1), ("parallel_begin", 3, 0, 0, 1),
                              ("parallel_end",), ("parallel_end",)), "a parallel loop in another"),
    "parallel in a branch in parallel": (
        (const(0, 0), ("load.i1", BIT, X, 0), ("parallel_begin", 2, 0, 0, 1), ("if_begin", BIT),
         ("parallel_begin", 3, 0, 0, 1), ("parallel_end",), ("if_end",), ("parallel_end",)),
        "a parallel loop in another"),
    "kernel number": (dispatch(kernel=4), "kernel 4 of 4"),
    "unknown kernel": (dispatch(kernel=1), "nothing is known of what kernel 'unknown' touches"),
    "kernel beyond the end": (dispatch(a=BufferArgument(X, 2, 17)),
                              "argument 0 of kernel 'k' may use bytes [0, 66]"),
    "kernel before the start": (dispatch(a=BufferArgument(X, 2, 4, -4)), "may use bytes [-4, 23]"),
    "kernel writes to an input": (dispatch(b=BufferArgument(X, 2, 16)), "writes to 'x', which is read-only"),
    "kernel misaligned": (dispatch(b=BufferArgument(Y, 2, 2)), "may not be aligned to 4 bytes"),
    "kernel one byte beyond the end": (dispatch(a=BufferArgument(X, 2, 16, 1)), "may use bytes [1, 64]"),
    "kernel that starts misaligned": (dispatch(b=BufferArgument(Y, 2, 4, 2)), "may not be aligned to 4 bytes"),
    "kernel's stride": ((const(0, 0), ("dispatch", KERNEL, ((BufferArgument(X, 0, 2**63), ON_ONE_TRIP,
                                                           RegisterArgument(0)),))), "no 64-bit stride"),
    "kernel's offset": ((const(0, 1), ("dispatch", KERNEL, ((BufferArgument(X, 0, -(2**63), 2**63), ON_ONE_TRIP,
                                                           RegisterArgument(0)),))), "no 64-bit stride or offset"),
    "kernel's index": ((const(1, 8),
                        ("dispatch", 0, ((BufferArgument(W), BufferArgument(Y), RegisterArgument(1)),))),
                       "may be in [8, 8], beyond [0, 7]"),
    "pointer for an index": (dispatch(c=BufferArgument(X)), "must be an index"),
    "index for a pointer": (dispatch(a=RegisterArgument(2)), "must be a buffer"),
    "too few arguments": ((("dispatch", 0, ((BufferArgument(X),),)),),
                           "1 arguments for kernel 'k', which takes 3"),
    "no calls": ((("dispatch", 0, ()),), "a dispatch of no calls"),
    "no arguments": ((("dispatch", NOTHING, ((),)),), "0 arguments for kernel 'nothing'"),
    "too many arguments": ((("dispatch", EVERYTHING, ((BufferArgument(X),) * (MAX_ARGUMENTS + 1),)),),
                           "65 arguments for kernel 'everything'"),
    "no argument lists": ((("dispatch", KERNEL, 7),), "'calls' are no argument lists"),
    "argument's register": (dispatch(a=BufferArgument(X, 9, 4)), "register 9 may be read"),
    "argument's buffer": (dispatch(a=BufferArgument(9)), "buffer 9 of 4"),
    "argument's buffer below 0": (dispatch(a=BufferArgument(-1)), "buffer -1 of 4"),
    "argument's buffer at the end": (dispatch(a=BufferArgument(4)), "buffer 4 of 4"),
    "argument's register type": (dispatch(c=RegisterArgument(NARROW)), "register 13 is i32, not i64"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(code: tuple, message: str) -> None:
    with pytest.raises(BytecodeError) as caught:
        check(*code)
    assert message in str(caught.value)
    assert "function 'main', instruction" in str(caught.value)


WRITTEN = {
    "nothing": ((const(0, 0), ("load.f32", F0, X, 0), ("store.f32", F0, ARENA, 0)), 0),
    "one element": ((ONE, const(0, 3), ("store.f32", F0, Y, 0)), 4),
    "from the first to the last": ((ONE, const(0, 2), const(1, 5), ("store.f32", F0, Y, 0), ("store.f32", F0, Y, 1)),
                                   16),
    "the last one first": ((ONE, const(0, 2), const(1, 5), ("store.f32", F0, Y, 1), ("store.f32", F0, Y, 0)), 16),
    "every trip": ((ONE, *LOOP, ("store.f32", F0, Y, 2), ("loop_end",)), 64),
    "a fill": ((ONE, const(0, 1), ("fill.f32", F0, Y, 0, 15)), 60),
    "a copy": ((const(0, 0), ("copy.f32", Y, 0, X, 0, 8)), 32),
    "a kernel": (dispatch(), 64),
    "a call of a kernel": (dispatch(b=BufferArgument(Y, offset=16)), 16),
}  # fmt: skip


@pytest.mark.parametrize(("code", "nbytes"), WRITTEN.values(), ids=WRITTEN.keys())
def test_bytes_that_may_be_written(code: tuple, nbytes: int) -> None:
    assert check(*code) == [nbytes]


def test_elements_that_a_buffer_holds_in_part() -> None:
    load = const(0, 0), ("load.i64", 1, ARENA, 0)
    check(*load, arena=8)
    with pytest.raises(BytecodeError, match="'arena', which has 0 of i64"):
        check(*load, arena=7)


def test_missing_return() -> None:
    with pytest.raises(BytecodeError, match="does not end in 'ret'"):
        verify(Module([Function("main", (), (), (), 0, [])]))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Function("f", (), (), ("index",), 0, [Instruction("ret")]), "unknown type 'index'"),
        (Function("f", (), (), (), -1, [Instruction("ret")]), "an arena of -1 bytes"),
        (Function("f", (), (), (), MAX_BYTES + 1, [Instruction("ret")]), "an arena of"),
        (
            Function("f", (TensorSpec("x", "f99", ()),), (), (), 0, [Instruction("ret")]),
            "unknown element type",
        ),
        (
            Function("f", (TensorSpec("x", "f32", (2**40, 2**40)),), (), (), 0, [Instruction("ret")]),
            "has shape",
        ),
        (
            Function("f", (), (TensorSpec("y", "f32", (0, 2**47, 2**47)),), (), 0, [Instruction("ret")]),
            "has shape",
        ),
        (Function("f", (), (TensorSpec("y", "f32", (1,) * 33),), (), 0, [Instruction("ret")]), "has shape"),
    ],
)
def test_signature(function: Function, message: str) -> None:
    with pytest.raises(BytecodeError, match=message):
        verify(Module([function]))


def test_names_are_unique() -> None:
    with pytest.raises(BytecodeError, match="two kernels are called 'k'"):
        verify(Module([], [Kernel("k", ""), Kernel("k", "")]))
