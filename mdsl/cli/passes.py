"""The passes' names and help texts for `mdsl opt --help`, read from their source files without importing them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from mdsl import passes
from mdsl.passes import PASSES

_FOLDER = Path(passes.__file__).parent


def pass_names() -> list[str]:
    return list(PASSES)


@cache
def _class(name: str) -> ast.ClassDef:
    """The class of a pass up to its first method: parsing the whole file would take as long as importing it."""
    package = _FOLDER / PASSES[name] / name.replace("-", "_")
    text = (package / "__init__.py" if package.is_dir() else package.with_suffix(".py")).read_text()
    start = text.index("(Pass):")
    start = text.rindex("\nclass ", 0, start)
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
        rows.append(
            (f"--{name}{f'[={first}]' if first else ''}", " ".join([doc, *(f"{n}: {h}." for n, h in texts)]))
        )
    return rows


def _option(item: ast.AnnAssign) -> tuple[str, str]:
    assert isinstance(item.target, ast.Name) and isinstance(item.value, ast.Call)
    help = item.value.args[1]
    assert isinstance(help, ast.Constant)
    return item.target.id, str(help.value).rstrip(".")
