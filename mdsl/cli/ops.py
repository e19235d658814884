"""`mdsl ops`: the operations, from their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getdoc
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mdsl.ir.core import Op


def ops(
    name: Annotated[
        str | None, typer.Argument(help="An operation (nn.conv2d) or a dialect (nn).", metavar="[NAME]")
    ] = None,
) -> None:
    """List the operations, or explain one."""
    from mdsl.errors import MdslError, nearest
    from mdsl.ir.registry import operations

    known = operations()
    if name in known:
        typer.echo("\n".join(_explained(known[name])))
        return
    chosen = {n: op for n, op in known.items() if name is None or n.split(".")[0] == name}
    if not chosen:
        raise MdslError(f"error: no operation or dialect '{name}'{nearest(name or '', list(known))}")
    for full, op in chosen.items():
        typer.echo(f"{full:28} {(getdoc(op) or '').partition(chr(10))[0]}".rstrip())


def _explained(op: type[Op]) -> Iterator[str]:
    yield op.name
    yield ""
    yield getdoc(op) or ""
    for kind in ("operand", "attribute", "region", "result"):
        for field in op.fields:
            if field.kind == kind:
                amount = (
                    "any number of "
                    if field.variadic and not field.optional
                    else "optional, "
                    if field.optional
                    else ""
                )
                default = f" = {field.default}" if field.default is not None else ""
                doc = f"; {field.doc}" if field.doc else ""
                yield f"  {kind:9} {field.name}{default}: {amount}{field.constraint.description}{doc}"
    if op.traits:
        yield f"  traits    {', '.join(sorted(op.traits))}"
