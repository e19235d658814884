"""Checks what every program must keep to: declared shapes of ops, types, dominance, terminators, symbols."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cache

from mdsl.errors import nearest
from mdsl.ir.attributes import Attribute, DenseArrayAttr, StringAttr, SymbolRefAttr
from mdsl.ir.core import Block, Op, OpResult, Value
from mdsl.ir.declare import Field, fields_of
from mdsl.ir.errors import VerifyError
from mdsl.ir.types import DYNAMIC


def verify(root: Op) -> None:
    """Raises VerifyError at the first op that breaks a rule."""
    _verify_op(root, set())


def _verify_op(op: Op, visible: set[Value]) -> None:
    for value in op.operands:
        if value not in visible:
            raise op.error(f"operand %{value.name or '?'} {_why_invisible(value)}")
    _verify_fields_once(op)
    inside: set[Value] = set() if op.has("isolated") else visible
    for region in op.regions:
        _verify_block(op, region.block, inside)
    op.verify_op()
    _verify_symbols(op)


def _verify_fields_once(op: Op) -> None:
    """Checks the op's fields unless they are those that were found right before: most ops outlive many passes."""
    fields = (
        op.attributes.copy(),
        [v.type for v in op.operands],
        [r.type for r in op.results],
        [bool(r.block.args) for r in op.regions],
    )
    if fields != op.verified:
        verify_fields(op)
        op.verified = fields


def _why_invisible(value: Value) -> str:
    owner = value.owner
    if isinstance(owner, Op) and owner.block is None:
        return "belongs to an erased operation"
    return "does not dominate its use"


def _verify_block(op: Op, block: Block, visible: set[Value]) -> None:
    local: list[Value] = list(block.args)
    visible.update(local)
    inner = block.first
    while inner is not None:
        _verify_op(inner, visible)
        if inner.has("terminator") and inner.next is not None:
            raise inner.error("must be the last operation of its block")
        visible.update(inner.results)
        local.extend(inner.results)
        inner = inner.next
    if block.last is not None and not block.last.has("terminator") and not op.has("no-terminator"):
        raise block.last.error(f"the last operation in '{op.name}' must be a terminator")
    visible.difference_update(local)


def verify_operands(op: Op) -> None:
    """Raises VerifyError if the op's operands and attributes are not those that it declares."""
    _verify_values(op, "operand", op.operands)
    for field in fields_of(type(op), "attribute"):
        _verify_attribute(op, field)
    _verify_names(op)
    _verify_mixed(op)


def infer_results(op: Op) -> None:
    """Gives `op` the results that it infers, once its operands are what it declares. Raises VerifyError."""
    verify_operands(op)
    op.set_result_types(op.infer())


def _verify_values(op: Op, kind: str, values: list[Value] | list[OpResult]) -> None:
    fields, plain = _declared(type(op), kind)
    segments = f"{kind}SegmentSizes"
    if len(values) == len(fields) == plain and segments not in op.attributes:
        for field, value in zip(fields, values, strict=True):
            _verify_type(op, field, value)
        return
    if len(values) < plain or (len(values) > plain and len(fields) == plain):
        raise op.error(
            f"takes {'at least ' if len(fields) > plain else ''}{plain} {kind}s, got {len(values)}"
        )
    _verify_segments(op, kind, len(values))
    for field in fields:
        _verify_types(op, field, values, segments)


@cache
def _declared(declaration: type[Op], kind: str) -> tuple[tuple[Field, ...], int]:
    """The operands or results that an op declares, and how many of them are single values."""
    fields = fields_of(declaration, kind)
    return fields, sum(not f.variadic for f in fields)


def verify_fields(op: Op) -> None:
    """Raises VerifyError if the op's operands, attributes, results and regions are not those that it declares."""
    verify_operands(op)
    _verify_values(op, "result", op.results)
    _verify_regions(op)
    for relation in op.relations:
        if not relation.holds(op):
            raise op.error(relation.description)
    if op.has("same-type"):
        types = {v.type for v in (*op.operands, *op.results)}
        if len(types) > 1:
            raise op.error(
                f"operands and results must be of one type, got {', '.join(sorted(map(str, types)))}"
            )


def _verify_mixed(op: Op) -> None:
    """There must be a value for each entry of mixed indices that is no number."""
    for field in _mixed(type(op)):
        verify_dynamic(op, field.name, getattr(op, field.name), op.attr(field.numbers))


@cache
def _mixed(declaration: type[Op]) -> tuple[Field, ...]:
    return tuple(f for f in fields_of(declaration, "operand") if f.numbers)


def verify_dynamic(op: Op, what: str, values: Sequence[Value], numbers: Sequence[int]) -> None:
    """There must be a value for each number that only the run will know."""
    wanted = numbers.count(DYNAMIC)
    if len(values) != wanted:
        raise op.error(f"{len(values)} values for {wanted} unknown {what}")


def _verify_regions(op: Op) -> None:
    fields = fields_of(type(op), "region")
    if len(op.regions) != len(fields):
        raise op.error(f"takes {len(fields)} regions, got {len(op.regions)}")
    for field, region in zip(fields, op.regions, strict=True):
        if region.block.args and not field.variadic:
            raise op.error("its block takes no arguments")


def _verify_segments(op: Op, kind: str, total: int) -> None:
    """An op with several variadic groups says how long each is."""
    fields = fields_of(type(op), kind)
    name = f"{kind}SegmentSizes"
    sizes = op.attributes.get(name)
    if sizes is None:
        if sum(f.variadic for f in fields) > 1:
            raise op.error(f"attribute '{name}' is missing ({len(fields)} numbers)")
        return
    if (
        not isinstance(sizes, DenseArrayAttr)
        or len(sizes.values) != len(fields)
        or any(n < 0 for n in sizes.values)
    ):
        raise op.error(f"attribute '{name}' must be {len(fields)} numbers")
    if sum(sizes.values) != total:
        raise op.error(f"{name} do not fit {total} {kind}s")


def _verify_types(op: Op, field: Field, values: list[Value] | list[OpResult], segments: str) -> None:
    start, end = field.span(op, len(values), segments)
    if end > len(values) or start < 0 or (not field.variadic and end - start != 1):
        raise op.error(f"{field.kind}SegmentSizes do not fit {len(values)} {field.kind}s")
    if field.optional and end - start > 1:
        raise op.error(f"takes one '{field.name}' at most, got {end - start}")
    for value in values[start:end]:
        _verify_type(op, field, value)


def _verify_type(op: Op, field: Field, value: Value) -> None:
    if not field.constraint.accepts(value.type):
        raise op.error(
            f"{field.kind} '{field.name}' must be {field.constraint.description}, got {value.type}"
        )


_OWN = ("nn", "ukernel", "mvm")
_GENERAL = ("operandSegmentSizes", "resultSegmentSizes")


def _verify_names(op: Op) -> None:
    """An op of our own dialects has the attributes that it declares, and any that bear a dialect's name
    (`mdsl.note`): a misspelt one must not pass for an absent one. Upstream's ops may have more than we know."""
    declared = _names(type(op))
    if declared is None:
        return
    for name in op.attributes:
        if name not in declared and "." not in name and name not in _GENERAL:
            hint = nearest(name, declared) or (f"; it may have {', '.join(declared)}" if declared else "")
            raise op.error(f"has no attribute '{name}'{hint}")


@cache
def _names(declaration: type[Op]) -> list[str] | None:
    """All attributes that ops of this kind may have beside a dialect's; None where they may have others."""
    if declaration.name.split(".")[0] not in _OWN or "symbol" in declaration.traits:
        return None
    return [f.name for f in fields_of(declaration, "attribute")]


def _verify_attribute(op: Op, field: Field) -> None:
    found: Attribute | None = op.attributes.get(field.name)
    if found is None:
        if field.default is None and not field.optional:
            unknown = [name for name in op.attributes if all(name != f.name for f in op.fields)]
            raise op.error(
                f"attribute '{field.name}' is missing ({field.constraint.description}){_misspelt(field.name, unknown)}"
            )
        return
    if not field.constraint.accepts(found):
        raise op.error(f"attribute '{field.name}' must be {field.constraint.description}, got {found}")


def _misspelt(name: str, unknown: list[str]) -> str:
    """A hint at an attribute that no declaration knows and that looks like `name`."""
    return next((f"; did you mean it by '{u}'?" for u in unknown if nearest(u, [name])), "")


def _verify_symbols(op: Op) -> None:
    for error in symbol_errors(op):
        raise error


def symbol_errors(op: Op, unsound: Container[Op] = ()) -> Iterator[VerifyError]:
    """In a module: names are unique, and every reference finds in the nearest module a definition that fits its use.

    Whether a use fits is not asked of `unsound` ops, whose attributes may be of any kind, nor of what refers to them.
    """
    if op.name != "builtin.module":
        return
    defined: dict[str, Op] = {}
    for inner in op.body.ops:
        name = inner.attributes.get("sym_name")
        if not isinstance(name, StringAttr):
            continue
        if name.value in defined:
            yield inner.error(f"{SymbolRefAttr(name.value)} is already defined")
        defined[name.value] = inner
    for inner in _in_module(op):
        for attr in inner.attributes.values():
            if not isinstance(attr, SymbolRefAttr):
                continue
            if attr.name not in defined:
                yield inner.error(f"{attr} is not defined{nearest(attr.name, list(defined))}")
                continue
            if inner in unsound or defined[attr.name] in unsound:
                continue
            try:
                inner.verify_symbol(defined[attr.name])
            except VerifyError as error:
                yield error


def _in_module(op: Op) -> Iterator[Op]:
    """The ops under a module, without what modules in it hold."""
    left = [op.body.first]
    while left:
        inner = left.pop()
        while inner is not None:
            yield inner
            if inner.regions and inner.name != "builtin.module":
                left.append(inner.next)
                left.extend(region.block.first for region in reversed(inner.regions))
                break
            inner = inner.next
