"""func: functions, calls and returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from mdsl.dialects.reassociation import groups_of
from mdsl.dialects.terminator import Terminator
from mdsl.ir.attributes import (
    ArrayAttr,
    Attribute,
    DictAttr,
    IntegerAttr,
    StringAttr,
    SymbolRefAttr,
    TypeAttr,
    python_value,
)
from mdsl.ir.core import Block, BlockArgument, Op, Region, Value
from mdsl.ir.declare import (
    DICTS,
    ISOLATED,
    STRING,
    SYMBOL,
    SYMBOL_REF,
    TYPE,
    attr,
    operand,
    region,
    result,
)
from mdsl.ir.naming import FreeNames, name_wished, names_under
from mdsl.ir.types import DYNAMIC, FunctionType, ShapedType, TensorType, Type, i32

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

F = TypeVar("F", bound="FunctionLike")

OUTPUT = "mdsl.output"
"""The attribute of an argument that is an out-parameter: memory that the function writes a result into."""

DONATED = "tf.aliasing_output"
"""The attribute of a tensor argument whose memory one of the results may take, by that result's number (JAX's name)."""

INPUT = "mdsl.input"
"""The attribute of an out-parameter that an input was donated to: its memory holds that input first. Says which of the
inputs it is."""

RESULT = "mdsl.result"
"""The attribute of an out-parameter with `mdsl.input`: what the result is called, if not as the input."""

PARAMETER = "mdsl.parameter"
"""The attribute of an argument, or of a constant, that is trained."""

STATE = "mdsl.state"
"""The attribute of an argument that a training step keeps, of an optimiser: at first the number that it holds, else 0."""

LAYOUT = "mdsl.layout"
"""The attribute of an argument that lies otherwise than its caller knows it, in blocks: for each dimension of the plain tensor
those of the argument that it is cut into, outermost first."""

FINITE = "mdsl.finite"
"""The attribute of a result that says whether the gradients are finite: else a step is to alter nothing."""

NAME = "mdsl.name"
"""The attribute of an argument or a result that is not called as the value in the text is."""

GRADIENT = "grad_"
"""What the name of a gradient begins with; that of what it is the gradient of follows."""

DIMS = "mdsl.dims"
"""The attribute of an argument that names its `?` dimensions: a string each, "" for one without a name."""

_DIM_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


class FunctionLike(Op):
    """What `func.func` and `ukernel.func` share: a name, a type, a body."""

    traits = ISOLATED | SYMBOL
    sym_name = attr(STRING)
    function_type = attr(TYPE)
    arg_attrs = attr(DICTS, optional=True, doc="one dictionary an argument")
    res_attrs = attr(DICTS, optional=True, doc="one dictionary a result")
    sym_visibility = attr(STRING, optional=True)
    body_region = region(arguments=True)
    terminator_name = "func.return"

    @classmethod
    def make(
        cls: type[F],
        name: str,
        inputs: Sequence[Type],
        results: Sequence[Type],
        names: Sequence[str | None] = (),
    ) -> F:
        """An empty function; `names` name the arguments."""
        block = Block(inputs, names or [None] * len(inputs))
        return cls(
            results=[],
            regions=[Region(block)],
            sym_name=name,
            function_type=FunctionType(tuple(inputs), tuple(results)),
        )

    @property
    def type(self) -> FunctionType:
        found = self.attributes["function_type"]
        assert isinstance(found, TypeAttr) and isinstance(found.type, FunctionType)
        return found.type

    @property
    def symbol(self) -> str:
        return str(self.attr("sym_name"))

    @property
    def args(self) -> list[Value]:
        return list(self.body.args)

    def inputs(self) -> list[Value]:
        """The arguments that a caller gives data, in their order: all but out-parameters, and those that inputs were
        donated to."""
        pairs = list(zip(self.body.args, self.arg_attributes(), strict=True))
        found: list[Value] = [arg for arg, attributes in pairs if OUTPUT not in attributes]
        marks = [(attributes.get(INPUT), arg) for arg, attributes in pairs]
        places = {mark.value: arg for mark, arg in marks if isinstance(mark, IntegerAttr)}
        for place in sorted(places):
            found.insert(place, places[place])
        return found

    def outputs(self) -> list[Value]:
        """The out-parameters."""
        pairs = zip(self.body.args, self.arg_attributes(), strict=True)
        return [arg for arg, attributes in pairs if OUTPUT in attributes]

    def donations(self) -> dict[int, int]:
        """The number of the result that may take an argument's memory, by the argument's; before bufferization."""
        found = [attributes.get(DONATED) for attributes in self.arg_attributes()]
        return {i: a.value for i, a in enumerate(found) if isinstance(a, IntegerAttr)}

    def add_argument(self, type: Type, name: str, attributes: Mapping[str, Attribute] | None = None) -> Value:
        """A new argument, behind the others. A name that the text cannot have is kept beside it."""
        given = self.arg_attributes()
        argument = self.body.add_arg(type, name)
        kept = {} if name_wished(argument) == name else {NAME: StringAttr(name)}
        self.set_arg_attributes([*given, {**(attributes or {}), **kept}])
        self.update_type()
        return argument

    def insert_result(
        self, place: int, value: Value, attributes: Mapping[str, Attribute] | None = None
    ) -> None:
        """Returns `value` too, as result number `place`; donations to those behind follow them."""
        given, end = self.result_attributes(), self.body.terminator
        end.operands = [*end.operands[:place], value, *end.operands[place:]]
        self.update_type()
        self.set_result_attributes([*given[:place], dict(attributes or {}), *given[place:]])
        if place + 1 < len(end.operands):
            for argument, number in self.donations().items():
                if number >= place:
                    self.donate(argument, number + 1)

    def donate(self, argument: int, result: int) -> None:
        """Lets a result take an argument's memory."""
        # The others' attributes are left as they are: of a network's parameters, each is donated.
        found = self.attributes.get("arg_attrs")
        kept = list(found.values) if isinstance(found, ArrayAttr) else [DictAttr(())] * len(self.body.args)
        own = {**self._entries(kept[argument]), DONATED: IntegerAttr(result, i32)}
        kept[argument] = DictAttr(tuple(own.items()))
        self.attributes["arg_attrs"] = ArrayAttr(tuple(kept))

    def layouts(self) -> dict[Value, list[list[int]]]:
        """The arguments that lie in blocks, and for each dimension of the plain tensor those of the argument."""
        pairs = zip(self.body.args, self.arg_attributes(), strict=True)
        return {arg: groups_of(attributes[LAYOUT]) for arg, attributes in pairs if LAYOUT in attributes}

    def return_renewed(self, argument: BlockArgument, value: Value) -> None:
        """Returns `value` too, behind the others: what comes of the argument, in whose memory it may lie."""
        place = len(self.body.terminator.operands)
        self.insert_result(place, value)
        self.donate(argument.index, place)

    def update_type(self) -> None:
        """Makes `function_type` that of the block's arguments and the terminator's operands."""
        inputs = tuple(a.type for a in self.body.args)
        results = tuple(v.type for v in self.body.terminator.operands)
        self.attributes["function_type"] = TypeAttr(FunctionType(inputs, results))

    def arg_attributes(self) -> list[dict[str, Attribute]]:
        """A dictionary for every argument."""
        return self._dictionaries("arg_attrs", len(self.body.args))

    def set_arg_attributes(self, attrs: Sequence[dict[str, Attribute]]) -> None:
        self._set_dictionaries("arg_attrs", attrs)

    def dim_names(self) -> list[tuple[str, ...]]:
        """What the dimensions of each argument are called: "" for one of known size; a `?` that `mdsl.dims`
        does not name bears the argument's name and its position, `image.0`."""
        found: list[tuple[str, ...]] = []
        for i, (arg, attributes) in enumerate(zip(self.body.args, self.arg_attributes(), strict=True)):
            shape = arg.type.shape if isinstance(arg.type, ShapedType) else ()
            given = attributes.get(DIMS)
            names = (
                [str(python_value(n)) for n in given] if isinstance(given, ArrayAttr) else [""] * len(shape)
            )
            sizes = enumerate(zip(shape, names, strict=True))
            own = arg.name or f"input{i}"
            found.append(tuple("" if s != DYNAMIC else n or f"{own}.{d}" for d, (s, n) in sizes))
        return found

    def name_args(self) -> None:
        """Gives the arguments the names that `mdsl.name` says: `%input_0` may stand for "input:0"."""
        for arg, attributes in zip(self.body.args, self.arg_attributes(), strict=True):
            given = attributes.get(NAME)
            if isinstance(given, StringAttr):
                arg.name = given.value

    def result_attributes(self) -> list[dict[str, Attribute]]:
        """A dictionary for every result."""
        return self._dictionaries("res_attrs", len(self.type.results))

    def set_result_attributes(self, attrs: Sequence[dict[str, Attribute]]) -> None:
        self._set_dictionaries("res_attrs", attrs)

    def _dictionaries(self, name: str, count: int) -> list[dict[str, Attribute]]:
        found = self.attributes.get(name)
        if not isinstance(found, ArrayAttr):
            return [{} for _ in range(count)]
        return [self._entries(d) for d in found.values]

    @staticmethod
    def _entries(dictionary: Attribute) -> dict[str, Attribute]:
        return dict(dictionary.entries) if isinstance(dictionary, DictAttr) else {}

    def _set_dictionaries(self, name: str, attrs: Sequence[dict[str, Attribute]]) -> None:
        if any(attrs):
            self.attributes[name] = ArrayAttr(tuple(DictAttr(tuple(a.items())) for a in attrs))
        else:
            self.attributes.pop(name, None)

    def verify_op(self) -> None:
        holder = self.parent
        if holder is not None and holder.name != "builtin.module":
            raise self.error(f"must stand in a module, not in '{holder.name}'")
        function_type = self.attributes["function_type"]
        if not isinstance(function_type, TypeAttr) or not isinstance(function_type.type, FunctionType):
            raise self.error("function_type must be a function type")
        for kind, name, count in (
            ("argument", "arg_attrs", len(self.body.args)),
            ("result", "res_attrs", len(self.type.results)),
        ):
            attrs = self.attributes.get(name)
            if isinstance(attrs, ArrayAttr) and len(attrs) != count:
                raise self.error(f"{len(attrs)} {kind} attributes for {count} {kind}s")
        self._verify_dims()
        inputs = tuple(a.type for a in self.body.args)
        if inputs != self.type.inputs:
            raise self.error(f"the block takes {FunctionType(inputs, ())}, function_type says {self.type}")
        end = self.body.last
        if end is None or end.name != self.terminator_name:
            raise self.error(f"the body must end in '{self.terminator_name}'")
        results = tuple(v.type for v in end.operands)
        if results != self.type.results:
            raise end.error(f"returns ({', '.join(map(str, results))}), the function declares {self.type}")
        self._verify_donations()
        for argument, groups in self.layouts().items():
            rank = argument.type.rank if isinstance(argument.type, ShapedType) else 0
            if not all(groups) or sorted(d for group in groups for d in group) != list(range(rank)):
                raise self.error(f"{LAYOUT} of %{argument.name} must name each of its {rank} dimensions once")

    def _verify_donations(self) -> None:
        taken: set[int] = set()
        for number, attributes in enumerate(self.arg_attributes()):
            given = attributes.get(DONATED)
            if given is None:
                continue
            name = self.body.args[number].name
            count = len(self.type.results)
            if not isinstance(given, IntegerAttr) or not 0 <= given.value < count:
                raise self.error(f"{DONATED} of %{name} must be the number of one of the {count} results")
            argument, result = self.type.inputs[number], self.type.results[given.value]
            if argument != result or not isinstance(argument, TensorType):
                raise self.error(f"%{name} of type {argument} cannot be donated to a result of type {result}")
            if given.value in taken:
                raise self.error(f"two arguments are donated to result {given.value}")
            taken.add(given.value)

    def _verify_dims(self) -> None:
        for arg, attributes in zip(self.body.args, self.arg_attributes(), strict=True):
            given = attributes.get(DIMS)
            if given is None:
                continue
            shape = arg.type.shape if isinstance(arg.type, ShapedType) else ()
            names = given.values if isinstance(given, ArrayAttr) else ()
            if not isinstance(given, ArrayAttr) or len(names) != len(shape):
                raise self.error(f"{DIMS} of %{arg.name} must hold {len(shape)} strings, one a dimension")
            for name, size in zip(names, shape, strict=True):
                if not isinstance(name, StringAttr) or (name.value and not _DIM_NAME.fullmatch(name.value)):
                    raise self.error(f"{DIMS} of %{arg.name}: {name} is not the name of a dimension")
                if name.value and size != DYNAMIC:
                    raise self.error(f"{DIMS} of %{arg.name}: {name} names a dimension of known size {size}")

    @classmethod
    def parse_custom(cls: type[F], cursor: Cursor) -> F:
        attributes: dict[str, Attribute] = {}
        if cursor.sees_token("WORD"):
            attributes["sym_visibility"] = StringAttr(cursor.word())
        name = cursor.symbol()
        args = cursor.arguments()
        results = cursor.result_types() if cursor.accept("->") else []
        type = FunctionType(tuple(t for _, t, _ in args), tuple(t for t, _ in results))
        attributes = {"sym_name": StringAttr(name), "function_type": TypeAttr(type), **attributes}
        attributes.update(cursor.attr_dict(keyword=True))
        region = cursor.region(isolated=True, args=[(token, t) for token, t, _ in args])
        func = cls.from_parts([], [], attributes, [region])
        func.set_arg_attributes([a for _, _, a in args])
        func.set_result_attributes([a for _, a in results])
        return func

    def print_custom(self, printer: Printer) -> None:
        visibility = self.attributes.get("sym_visibility")
        printer.token(visibility.value if isinstance(visibility, StringAttr) else "")
        arguments = printer.arguments(self.body.args, self.arg_attributes())
        printer.token(f"{SymbolRefAttr(self.symbol)}{arguments}")
        results = self.type.results
        if results:
            printer.token(f"-> {printer.result_types(results, self.result_attributes())}")
        extra = {k: v for k, v in self.attributes.items() if k not in _OWN}
        printer.token(f"attributes {printer.attributes(extra)}" if extra else "")
        printer.region(self.regions[0])


_OWN = ("sym_name", "function_type", "arg_attrs", "res_attrs", "sym_visibility")


class FuncOp(FunctionLike):
    """A function. `@main`, or the only one, is what `mdsl run` runs."""

    name = "func.func"

    def result_names(self, name: Callable[[Value], str | None] = lambda value: value.name) -> list[str]:
        """What the results are called: as the returned values, or as `mdsl.name` says. A name that an argument
        or another result bears gets a number. `name` says what a value is called."""
        free = FreeNames(a.name for a in self.body.args)
        found: list[str] = []
        for value, attributes in zip(self.body.terminator.operands, self.result_attributes(), strict=True):
            given = attributes.get(NAME)
            found.append(free.take(given.value if isinstance(given, StringAttr) else name(value) or "output"))
        return found

    def keep_result_names(self, names: Sequence[str], in_text: bool = True) -> None:
        """Marks the results that `names` do not follow from, nor when the function is read from its text (`in_text`)."""
        text = names_under(self, like=self.body.terminator.operands) if in_text else {}
        renamed = {v: name for v, name in text.items() if v.name and name != name_wished(v)}
        now = self.result_names(lambda v: renamed.get(v, v.name))
        pairs = zip(names, now, self.result_attributes(), strict=True)
        marked = [a if name == had else {**a, NAME: StringAttr(name)} for name, had, a in pairs]
        self.set_result_attributes(marked)


class Return(Terminator):
    """Ends a function and hands back its results."""

    name = "func.return"


class Call(Op):
    """Calls a function of the module; inlined before lowering."""

    name = "func.call"
    assembly = "$callee `(` $args `)` attr-dict `:` functional-type"
    callee = attr(SYMBOL_REF)
    args = operand(variadic=True)
    values = result(variadic=True)

    def verify_symbol(self, definition: Op) -> None:
        type = FunctionType(tuple(v.type for v in self.operands), tuple(r.type for r in self.results))
        if not isinstance(definition, FuncOp) or definition.type != type:
            raise self.error(f"@{self.attr('callee')} is no function of type {type}")
