"""The proof of bounds on a kernel given by its arguments and its body."""

from __future__ import annotations

from mdsl.analysis.footprints import KernelArgument
from mdsl.codegen.bounds import prove
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse

CONSTANTS = "".join(f"%c{i} = arith.constant {i} : index\n" for i in (0, 1, 4, 8, 15, 16, 17))
A = "%a: memref<16xf32>"
INDEX = "%i: index {mdsl.range = array<i64: 0, 15>}"


def uses(arguments: str, body: str) -> tuple[KernelArgument, ...]:
    """What the kernel does with each argument. Raises VerifyError."""
    module = parse(f"ukernel.func @k({arguments}) {{\n{CONSTANTS}{body}\nukernel.return\n}}", "test")
    verify(module)
    (func,) = module.body.ops
    assert isinstance(func, UkernelFunc)
    return prove(func)


def proved(arguments: str, body: str) -> list[tuple[str, int]]:
    """As `uses`, the kinds and spans."""
    return [(use.kind, use.span) for use in uses(arguments, body)]
