"""Operations: from syntax trees to `ir.core`, with their regions and the names of their values.

The generic form is built here; a custom form is a list of pieces, which `syntax/assembly.py` matches
against the op's declaration through a `Cursor` (`syntax/cursor.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token, Tree

from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import Source, SyntaxError_, nearest
from mdsl.ir.attributes import AffineMapAttr, Attribute
from mdsl.ir.core import Block, Op, Region, Value, VerifyError
from mdsl.ir.location import Location
from mdsl.ir.registry import DIALECTS, operation, operations
from mdsl.ir.types import FunctionType, Type
from mdsl.syntax import resources
from mdsl.syntax.assembly import parse_custom
from mdsl.syntax.attributes import AttributeReader
from mdsl.syntax.cursor import Cursor
from mdsl.syntax.grammar import MAX_NESTING, Node, first_token, too_deep

OPS = ("custom_op", "generic_op")
KEYWORDS = {"return": "func.return", "module": "builtin.module"}


class Parser:
    """One text's names: values in scope, aliases, resources."""

    def __init__(self, source: Source, found: resources.Resources) -> None:
        self.source = source
        self.attributes = AttributeReader(source, found)
        self.scopes: list[dict[str, Value]] = [{}]  # a nested region shares its parent's
        self.local: list[list[str]] = [[]]  # what each region has defined, forgotten at its end
        self.file_name = source.name
        self.spans: dict[Op, tuple[int, int]] = {}

    # Messages ---------------------------------------------------------------------------------------------

    def error(self, message: str, token: Token | None) -> SyntaxError_:
        offset, length = (
            (token.start_pos or 0, len(token)) if token is not None else (len(self.source.text.rstrip()), 1)
        )
        return SyntaxError_(message, self.source, offset, length)

    def located(self, error: SyntaxError_ | VerifyError) -> SyntaxError_:
        """An error of the verifier at its op in the text."""
        if isinstance(error, SyntaxError_):
            return error
        op: Op | None = error.op
        while op is not None and op not in self.spans:
            op = op.parent
        offset, length = self.spans[op] if op is not None else (0, 1)
        return SyntaxError_(str(error), self.source, offset, length)

    # Structure --------------------------------------------------------------------------------------------

    def file(self, tree: Tree[Token]) -> ModuleOp:
        for item in tree.children:
            if isinstance(item, Tree) and item.data in ("alias", "metadata"):
                self.define_alias(item)
        block = Block()
        for item in tree.children:
            if isinstance(item, Tree) and item.data not in ("alias", "metadata"):
                self.append(block, item)
        if isinstance(block.first, ModuleOp) and block.first is block.last:
            module = block.first.detach()
        else:
            module = ModuleOp(regions=[Region(block)])
        for name, attr in self.attributes.aliases.items():
            if isinstance(attr, AffineMapAttr):
                module.map_names.setdefault(attr.map, name)
        return module

    def define_alias(self, tree: Tree[Token]) -> None:
        """Takes in an alias, or a section of resources."""
        self.attributes.define(tree)

    def append(self, block: Block, tree: Tree[Token]) -> None:
        block.append(self.op(tree))

    def op(self, tree: Tree[Token]) -> Op:
        try:
            op = self._generic(tree) if tree.data == "generic_op" else self._custom(tree)
        except VerifyError as error:  # its operands do not allow it to be built
            name = tree.children[1]
            token = name.children[0] if isinstance(name, Tree) else name
            raise self.error(str(error), token if isinstance(token, Token) else None) from None
        self._name_results(op, tree.children[0])
        return op

    def _custom(self, tree: Tree[Token]) -> Op:
        name_tree = tree.children[1]
        assert isinstance(name_tree, Tree)
        token = name_tree.children[0]
        assert isinstance(token, Token)
        name = KEYWORDS.get(str(token), str(token))
        cursor = Cursor(self, tree.children[2:], token)
        location = cursor.take_location() or self._location(token)
        op = parse_custom(self._declaration(name, token), cursor)
        cursor.end(f"'{name}'")
        op.location = location
        self.spans[op] = (token.start_pos or 0, len(token))
        return op

    def _generic(self, tree: Tree[Token]) -> Op:
        _, token, *rest = tree.children
        assert isinstance(token, Token)
        values = [t for t in rest[:-5] if isinstance(t, Token)]
        properties, regions, attrs, type_tree, location = rest[-5:]
        declaration = self._declaration(str(token)[1:-1], token)
        operands = [self.value(v) for v in values]
        entries = {**self._entries(properties), **self._entries(attrs)}
        isolated = "isolated" in declaration.traits
        bodies = [self.region(r, isolated) for r in getattr(regions, "children", []) if r is not None]
        bodies += (
            [Region() for f in declaration.fields[len(bodies) :] if f.kind == "region"] if not bodies else []
        )
        type = self.attributes.type(type_tree)
        assert isinstance(type, FunctionType)
        self._check_types(operands, type.inputs, values, token)
        op = declaration.from_parts(operands, type.results, entries, bodies)
        op.location = self._location(token) if location is None else self.attributes.location(location)
        self.spans[op] = (token.start_pos or 0, len(token))
        return op

    def _check_types(
        self, operands: Sequence[Value], types: Sequence[Type], tokens: Sequence[Token], op: Token
    ) -> None:
        if len(operands) != len(types):
            raise self.error(f"{len(operands)} operands, but {len(types)} operand types", op)
        for value, type, token in zip(operands, types, tokens, strict=True):
            if value.type != type:
                raise self.error(f"{token} is of type {value.type}, but {type} is written here", token)

    def _entries(self, tree: Node) -> dict[str, Attribute]:
        if isinstance(tree, Tree) and tree.data == "properties":
            tree = tree.children[0]
        return self.attributes.entries(tree) if isinstance(tree, Tree) else {}

    def _declaration(self, name: str, token: Token) -> type[Op]:
        found = operation(name)
        if found is None:
            raise self.error(f"unknown operation '{name}'{_operation_like(name)}", token)
        return found

    def _location(self, token: Token) -> Location:
        return Location(self.file_name, token.line or 0, token.column or 0)

    # Values and regions -----------------------------------------------------------------------------------

    def value(self, token: Token) -> Value:
        """The value that `%name` or `%name#2` refers to."""
        name = str(token)[1:]
        scope = self.scopes[-1]
        if name not in scope:
            raise self.error(f"{token} is not defined{nearest(name, list(scope))}", token)
        return scope[name]

    def define(self, name: str, value: Value, token: Token) -> None:
        if name in self.scopes[-1]:
            raise self.error(f"%{name} is already defined", token)
        self.scopes[-1][name] = value
        self.local[-1].append(name)
        if "#" not in name:
            value.name = name

    def _name_results(self, op: Op, token: Node) -> None:
        if not isinstance(token, Token):
            return
        start = 0
        for part in str(token)[:-1].split(","):
            name, _, count = part.strip()[1:].partition(":")
            results = op.results[start : start + int(count or 1)]
            if len(results) < int(count or 1):
                break
            if count:
                for i, value in enumerate(results):
                    self.define(f"{name}#{i}", value, token)
                    value.name = f"{name}_{i}" if i else name
            else:
                self.define(name, results[0], token)
            start += int(count or 1)
        else:
            if start == len(op.results):
                return
        raise self.error(f"'{op.name}' has {len(op.results)} results, but other names are written", token)

    def region(self, tree: Node, isolated: bool, args: Sequence[tuple[Token, Type]] = ()) -> Region:
        """The region written in braces; `args` come from the op's own syntax, else from the block's label."""
        assert isinstance(tree, Tree)
        if tree.data == "braces":
            inner = tree.children[0]
            assert isinstance(inner, Tree)
            tree = inner
        ops = [c for c in tree.children if isinstance(c, Tree) and c.data in OPS]
        label = [c for c in tree.children if c is not None and not (isinstance(c, Tree) and c.data in OPS)]
        if tree.data == "dict" and label:
            raise self.error("expected a region, got a dictionary", first_token(tree))
        if not args and label:
            pairs = label[1:]
            args = [
                (_token(v), self.attributes.type(t)) for v, t in zip(pairs[::2], pairs[1::2], strict=True)
            ]
        return self._block(args, ops, isolated)

    def _block(
        self, args: Sequence[tuple[Token, Type]], ops: Sequence[Tree[Token]], isolated: bool
    ) -> Region:
        if len(self.scopes) > MAX_NESTING:
            raise too_deep(self.source, f"regions are nested more than {MAX_NESTING} deep")
        outer = self.scopes[-1]
        self.scopes.append({} if isolated else outer)
        self.local.append([])
        block = Block([type for _, type in args])
        for (token, _), arg in zip(args, block.args, strict=True):
            self.define(str(token)[1:], arg, token)
        for op in ops:
            self.append(block, op)
        for name in self.local.pop():
            del self.scopes[-1][name]
        self.scopes.pop()
        return Region(block)


def _operation_like(name: str) -> str:
    """A hint at the operation that may have been meant: one written alike, or of that name in another dialect."""
    dialect, _, rest = name.partition(".")
    twins = [known for known in operations() if known.endswith(f".{rest}")] if rest else []
    if twins:
        return nearest(name, twins, 0.0)
    return nearest(name, list(operations())) or nearest(dialect, list(DIALECTS), 0.75)


def _token(node: Node) -> Token:
    assert isinstance(node, Token)
    return node
