"""The semantics of the opcodes, each written once as an emitter of LLVM IR.

The interpreter's handlers and the JIT are both made from these; see `machine` for what they may use. An
instruction reads all of its registers before it writes to one, for they may be the same
(tests see to it).
"""

from __future__ import annotations

from llvmlite import ir

from mdsl.arithmetic import ops as arithmetic
from mdsl.bytecode.machine import (
    I1,
    I64,
    POINTER,
    Machine,
    load_element,
    store_element,
    stored_type,
)
from mdsl.bytecode.worker_context import WorkerContext
from mdsl.target.target import ELEMENT_BYTES


def const(m: Machine) -> None:
    m.write("result", m.immediate("value"))


def mov(m: Machine) -> None:
    m.write("result", m.read("source"))


def lea(m: Machine) -> None:
    b = m.builder
    scaled = b.add(m.read("base"), b.mul(m.read("index"), m.immediate("stride")))
    m.write("result", b.add(scaled, m.immediate("offset")))


def compute(m: Machine, op: str, names: tuple[str, ...], element: str, result: str) -> None:
    """An op of the `arith` or `math` dialect on scalars."""
    operands = [m.read(name) for name in names]
    m.write("result", arithmetic.emit(op, m.builder, operands, element, result))


def select(m: Machine) -> None:
    m.write("result", m.builder.select(m.read("condition"), m.read("then"), m.read("otherwise")))


def load(m: Machine, element: str) -> None:
    m.write("result", _load(m, "buffer", m.read("index"), element))


def load_indexed(m: Machine, element: str) -> None:
    m.write("result", _load(m, "buffer", _indexed(m), element))


def store(m: Machine, element: str) -> None:
    store_element(m.builder, m.read("value"), _address(m, "buffer", m.read("index"), element), element)


def store_indexed(m: Machine, element: str) -> None:
    store_element(m.builder, m.read("value"), _address(m, "buffer", _indexed(m), element), element)


def dot(m: Machine, element: str) -> None:
    """Rounded once, as by an fma."""
    left = _load(m, "left", _indexed(m, "left_"), element)
    right = _load(m, "right", _indexed(m, "right_"), element)
    m.write("sum", arithmetic.emit("math.fma", m.builder, [left, right, m.read("sum")], element, element))


def copy(m: Machine, element: str) -> None:
    m.spend(lambda: m.immediate("count"))
    target = _address(m, "target", m.read("target_index"), element)
    source = _address(m, "source", m.read("source_index"), element)
    nbytes = m.builder.mul(m.immediate("count"), I64(ELEMENT_BYTES[element]))
    module = m.builder.module
    memmove = module.declare_intrinsic("llvm.memmove", [POINTER, POINTER, I64])
    m.builder.call(memmove, [target, source, nbytes, I1(0)])


def fill(m: Machine, element: str) -> None:
    m.spend(lambda: m.immediate("count"))
    b = m.builder
    value, start = m.read("value"), _address(m, "buffer", m.read("index"), element)
    count, before = m.immediate("count"), b.block
    body, after = b.append_basic_block("fill"), b.append_basic_block("filled")
    b.branch(body)
    b.position_at_end(body)
    position = b.phi(I64, "position")
    position.add_incoming(I64(0), before)
    store_element(b, value, _element_pointer(b, start, position, element), element)
    following = b.add(position, I64(1))
    position.add_incoming(following, body)
    b.cbranch(b.icmp_signed("<", following, count), body, after)
    b.position_at_end(after)


def dispatch(m: Machine) -> None:
    b = m.builder
    for arguments in m.calls():
        m.call_kernel([b.add(b.add(a.base, b.mul(a.register, a.stride)), a.offset) for a in arguments])
        m.spend(lambda: I64(1))  # a kernel whose loops have used up what there was leaves nothing


def loop_begin(m: Machine) -> None:
    lower, upper = m.read("lower"), m.read("upper")
    m.spend(lambda: _trips(m, lower, upper))
    m.write("counter", lower)
    m.jump_if(m.builder.icmp_signed(">=", lower, upper), "exit")


def loop_end(m: Machine) -> None:
    following, upper = m.builder.add(m.read("counter"), m.immediate("step")), m.read("upper")
    m.write("counter", following)
    m.jump_if(m.builder.icmp_signed("<", following, upper), "body")


def parallel_begin(m: Machine) -> None:
    lower, upper = m.read("lower"), m.read("upper")
    trips = _trips(m, lower, upper)
    m.spend(lambda: trips)
    m.share(lower, trips)
    m.jump("exit")


def parallel_end(m: Machine) -> None:
    """A body runs a chunk of trips, then returns to who took the chunk."""
    following = m.builder.add(m.read("counter"), m.immediate("step"))
    m.write("counter", following)
    m.jump_if(m.builder.icmp_signed("<", following, m.context(WorkerContext.STOP)), "body")
    m.finish()


def if_begin(m: Machine) -> None:
    m.jump_if(m.builder.not_(m.read("condition")), "otherwise")


def otherwise(m: Machine) -> None:
    m.jump("exit")


def nothing(m: Machine) -> None:
    """The end of a block that is only left forwards."""


def ret(m: Machine) -> None:
    m.finish()


def _trips(m: Machine, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """How often a loop's body runs."""
    b = m.builder
    last = b.sub(b.sub(upper, lower), I64(1))
    trips = b.add(b.udiv(last, m.immediate("step")), I64(1))
    return b.select(b.icmp_signed("<", lower, upper), trips, I64(0))


def _indexed(m: Machine, prefix: str = "") -> ir.Value:
    """The element offset base + index * stride."""
    b = m.builder
    return b.add(m.read(prefix + "base"), b.mul(m.read(prefix + "index"), m.immediate(prefix + "stride")))


def _address(m: Machine, buffer: str, index: ir.Value, element: str) -> ir.Value:
    return _element_pointer(m.builder, m.buffer(buffer), index, element)


def _element_pointer(b: ir.IRBuilder, base: ir.Value, index: ir.Value, element: str) -> ir.Value:
    return b.gep(base, [index], source_etype=stored_type(element))


def _load(m: Machine, buffer: str, index: ir.Value, element: str) -> ir.Value:
    return load_element(m.builder, _address(m, buffer, index, element), element)
