"""What `--help` tells about passes, read from their source: importing them takes longer than a help may."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import mdsl

_FOLDER = Path(mdsl.__file__).parent / "passes"


@cache
def _declarations() -> tuple[tuple[str, ast.ClassDef], ...]:
    """Name and class of every registered pass, in the registry's order."""
    registry = ast.parse((_FOLDER / "__init__.py").read_text())
    files = {
        alias.name: node.module.removeprefix("mdsl.passes.").replace(".", "/")
        for node in registry.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    tuples = (node for node in ast.walk(registry) if isinstance(node, ast.Tuple))
    classes = [
        name.id for node in tuples for name in node.elts if isinstance(name, ast.Name) and name.id in files
    ]
    declarations = [_class(files[name], name) for name in classes]
    return tuple((_assigned(node, "name"), node) for node in declarations)


def _class(file: str, name: str) -> ast.ClassDef:
    """The class up to its first method: parsing the whole file would take as long as importing it."""
    package = _FOLDER / file
    text = (package / "__init__.py" if package.is_dir() else package.with_suffix(".py")).read_text()
    start = text.index(f"\nclass {name}(")
    node = ast.parse(text[start : text.index("\n    def ", start)]).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def _assigned(node: ast.ClassDef, name: str) -> str:
    """The text that the class assigns to `name`."""
    for item in node.body:
        targets = (
            item.targets
            if isinstance(item, ast.Assign)
            else [item.target]
            if isinstance(item, ast.AnnAssign)
            else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            assert isinstance(item, ast.Assign | ast.AnnAssign) and isinstance(item.value, ast.Constant)
            return str(item.value.value)
    raise AssertionError(f"{node.name} has no {name}")


def pass_names() -> list[str]:
    return [name for name, _ in _declarations()]


def pass_help() -> list[tuple[str, str]]:
    """`--flag` and its help, for every pass."""
    rows: list[tuple[str, str]] = []
    for name, node in _declarations():
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
