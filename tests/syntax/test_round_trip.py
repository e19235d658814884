"""Text -> IR -> text, for every op in both forms. The files beside this one are in canonical form."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdsl.dialects.linalg import Named
from mdsl.errors import Source
from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Op
from mdsl.ir.registry import operations
from mdsl.syntax import layout
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from tests.upstream import needs_upstream, read_by_upstream

OPS = Path(__file__).parents[2] / "docs" / "ops.mir"
FILES = sorted(Path(__file__).parent.glob("*.mir"))
names = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


@names
def test_canonical_text_prints_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the width of lines, which the printer does not limit."""
    text = path.read_text()
    monkeypatch.setattr(layout, "WIDTH", 1 << 30)
    wide = layout.formatted(Source(path.name, text))
    code = "".join(line for line in wide.splitlines(keepends=True) if not line.startswith("//"))
    assert print_module(parse(text, path.name)) == code


@names
def test_generic_form(path: Path) -> None:
    module = parse(path.read_text(), path.name)
    generic = print_module(module, generic=True)
    again = parse(generic)
    assert print_module(again) == print_module(module)
    assert print_module(again, generic=True) == generic


@names
def test_clones_print_the_same(path: Path) -> None:
    module = parse(path.read_text(), path.name)
    assert print_module(module.clone()) == print_module(module)


@names
def test_locations(path: Path) -> None:
    module = parse(path.read_text(), path.name)
    text = print_module(module, locations=True)
    assert f'loc("{path.name}":' in text
    assert print_module(parse(text, "elsewhere.mir"), locations=True) == text


def test_every_op_occurs() -> None:
    found = {op.name for path in FILES for op in parse(path.read_text()).walk()}
    assert found >= {name for name in operations() if name.split(".")[0] not in ("nn", "mvm")}


UPSTREAM = ("arith", "math", "builtin", "func", "tensor", "memref", "affine", "scf", "linalg", "vector")


@needs_upstream
def test_upstream_accepts() -> None:
    """The generic form always, the custom form where the dialect is upstream's own."""
    forms = [
        (path, generic) for path in FILES for generic in (True, False) if generic or path.stem in UPSTREAM
    ]
    texts = [print_module(parse(path.read_text(), path.name), generic=generic) for path, generic in forms]
    done = read_by_upstream(texts)
    assert done.returncode == 0, done.stderr


def test_attributes_that_no_form_knows_are_kept() -> None:
    """On every op but the yields of linalg: a named op hides its body."""
    module = parse(OPS.read_text(), OPS.name)
    marked = [
        op for op in module.walk() if op.name not in ("linalg.yield", "linalg_ext.yield", "builtin.module")
    ]
    for op in marked:
        op.attributes["test.mark"] = StringAttr("here")
    kept = [op.name for op in parse(print_module(module)).walk() if "test.mark" in op.attributes]
    assert [op.name for op in marked if not _is_hidden(op)] == kept


def _is_hidden(op: Op) -> bool:
    return any(isinstance(outer, Named) for outer in op.ancestors())
