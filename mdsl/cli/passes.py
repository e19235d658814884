"""The passes' names and help texts for `mdsl opt --help`, read from their source files without importing them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from functools import cache
from pathlib import Path

from mdsl import passes
from mdsl.passes import OWN, PASSES
from mdsl.support.escapes import one_line

_FOLDER = Path(passes.__file__).parent


@cache
def _class(name: str) -> ast.ClassDef:
    """The class of a pass up to its first method: parsing the whole file would take as long as importing it."""
    package = _FOLDER / PASSES[name] / name.replace("-", "_")
    text = (package / "__init__.py" if package.is_dir() else package.with_suffix(".py")).read_text()
    start = text.index(f"\nclass {''.join(word.capitalize() for word in name.split('-'))}(")
    node = ast.parse(text[start : text.index("\n    def ", start)]).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def pass_help() -> list[tuple[str, str]]:
    """`--flag` and its help, for every pass."""
    rows: list[tuple[str, str]] = []
    for name in PASSES:
        node = _class(name)
        doc = (ast.get_docstring(node) or "").partition("\n")[0]
        options = [i for i in node.body if isinstance(i, ast.AnnAssign) and isinstance(i.value, ast.Call)]
        texts = [_option(item) for item in options]
        first = texts[0][0].upper() if texts else ""
        rows.append(_row(name, first, doc, texts))
    return rows + [_own_row(name) for name in OWN]


def _row(name: str, first: str, doc: str, options: list[tuple[str, str]]) -> tuple[str, str]:
    return f"--{name}{f'[={first}]' if first else ''}", " ".join([doc, *(f"{n}: {h}." for n, h in options)])


def _own_row(name: str) -> tuple[str, str]:
    """The same of a pass that is loaded."""
    doc = one_line(inspect.cleandoc(OWN[name].__doc__ or "").partition("\n")[0])
    options = [
        (f.name, one_line(str(f.metadata.get("help", ""))).rstrip(".")) for f in dataclasses.fields(OWN[name])
    ]
    return _row(name, options[0][0].upper() if options else "", doc, options)


def _option(item: ast.AnnAssign) -> tuple[str, str]:
    assert isinstance(item.target, ast.Name) and isinstance(item.value, ast.Call)
    help = item.value.args[1]
    assert isinstance(help, ast.Constant)
    return item.target.id, str(help.value).rstrip(".")
