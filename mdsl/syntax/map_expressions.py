"""The expressions of affine maps: from syntax trees to `ir.affine`."""

from __future__ import annotations

from lark import Token, Tree

from mdsl.ir import affine


def map_expression(tree: Tree[Token], names: dict[str, affine.AffineExpr]) -> affine.AffineExpr:
    """The expression of a syntax tree, which may be deep. Raises ValueError where it is not affine."""
    known: dict[int, affine.AffineExpr] = {}
    for part in tree.iter_subtrees():  # inner ones first
        operands = [known[id(c)] for c in part.children if isinstance(c, Tree)]
        words = [str(c) for c in part.children if isinstance(c, Token)]
        known[id(part)] = _operation(str(part.data), operands, words, names)
    found = known[id(tree)]
    if any(isinstance(p, affine.Const) and not -(1 << 63) <= p.value < 1 << 63 for p in found.parts()):
        raise ValueError("a number of a map does not fit in 64 bits")
    return found


def _operation(
    rule: str, operands: list[affine.AffineExpr], words: list[str], names: dict[str, affine.AffineExpr]
) -> affine.AffineExpr:
    match rule, operands:
        case "const", _:
            if "." in words[0]:
                raise ValueError(f"{words[0]} is not an integer")
            return affine.Const(int(words[0], 0 if "x" in words[0] else 10))
        case "name", _:
            if words[0] not in names:
                raise ValueError(f"'{words[0]}' is not a dimension of this map")
            return names[words[0]]
        case "negate", (operand,):
            return -operand
        case "add", (left, right):
            return left + right
        case "sub", (left, right):
            return left - right
        case _, (left, right):
            return affine.binary("*" if rule == "mul" else words[0], left, right)
    raise AssertionError(rule)
