"""decompose: losses and training forms become the formulas of simpler nn ops that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.nn.training import Composite
from mdsl.ir.core import Builder, Value
from mdsl.passes.base import Context, Pass
from mdsl.passes.nn.decompose.rules import RULES
from mdsl.rewriting import remarks
from mdsl.rewriting.terms import Term, Terms


@dataclass(frozen=True)
class Decompose(Pass):
    """Replace losses, dropout and batch normalisation in training by simpler nn ops.

    Before:

        %loss = nn.mse %x, %target : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<f32>

    After:

        %loss_sub = nn.sub %x, %target : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
        %loss_mul = nn.mul %loss_sub, %loss_sub : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
        %loss = nn.reduce %loss_mul {kind = "mean", axes = [0, 1], keepdims = false} : (tensor<4x8xf32>) -> tensor<f32>

    What follows then needs no rules of its own for them. 16-bit floats are computed in f32.
    """

    name: ClassVar[str] = "decompose"
    level: ClassVar[str | None] = "nn"
    subject = "loss or training form"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in list(module.walk()):
            if isinstance(op, Composite):
                decompose(op)


def decompose(op: Composite) -> dict[str, Value]:
    """Puts what `op` is made of in its place; returns what its rule keeps of that. Raises VerifyError for a size that is not known."""
    terms = Terms(Builder.before(op), op.results[0].name or op.name.split(".")[1])
    made = RULES[op.name](terms, op)
    found = [made] if isinstance(made, Term) else made
    remarks.applied(op, "becomes the simpler ops that it stands for")
    own = set(op.operands)
    for result, term in zip(op.results, found, strict=True):
        if term.value not in own:
            term.value.name, term.value.serial = result.name, result.serial
    op.replace_by(*(term.value for term in found))
    return terms.kept
