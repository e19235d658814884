"""From a model to a module: arguments, results, what is reported when something is not supported."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import DIMS, NAME, FuncOp, Return
from mdsl.dialects.nn.base import tensor
from mdsl.errors import MdslError, nearest
from mdsl.frontends.onnx.graph import Graph, Missing, Problem, Scope
from mdsl.frontends.onnx.model import Model, check_text, load, model_of
from mdsl.frontends.onnx.registry import Unsupported, rule_for
from mdsl.frontends.onnx.rules import (
    constants,
    control,
    data,
    einsum,
    elementwise,
    gather,
    layers,
    misc,
    norm,
    recurrent,
    reduce,
    resize,
    sampling,
    shapes,
    signal,
    windows,
)
from mdsl.frontends.onnx.tensors import element_type, open_names, tensor_type
from mdsl.ir.attributes import ArrayAttr, Attribute, StringAttr
from mdsl.ir.core import Block, Op, Region, Value, VerifyError
from mdsl.ir.types import DYNAMIC, TensorType
from mdsl.ir.verifier import verify
from mdsl.syntax.printer import Printer

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

THEMES = (
    constants,
    control,
    data,
    einsum,
    elementwise,
    gather,
    layers,
    misc,
    norm,
    recurrent,
    reduce,
    resize,
    sampling,
    shapes,
    signal,
    windows,
)
"""The modules with the rules, which enter `registry.RULES` when they are imported."""


@dataclass(frozen=True)
class Report:
    """What `mdsl import --check` found: every node that is not supported, and how many are."""

    model: str
    problems: tuple[Problem, ...]
    supported: int
    unjudged: int
    """Nodes with a rule, behind an unsupported one that keeps their operands' types from being known."""

    def groups(self) -> list[list[Problem]]:
        """The problems with one operator and one reason together, the most frequent first."""
        found: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.problems:
            found.setdefault((problem.kind, problem.reason), []).append(problem)
        return sorted(found.values(), key=len, reverse=True)


def import_onnx(path: str | os.PathLike[str], bind: Mapping[str, int] | None = None) -> ModuleOp:
    """The module of an `.onnx` file. `bind` gives sizes of named dimensions. Raises MdslError, OSError."""
    return _module(load(path), bind or {})


def import_model(proto: ModelProto, bind: Mapping[str, int] | None = None, name: str = "<model>") -> ModuleOp:
    """The module of a model in memory. Raises MdslError."""
    return _module(model_of(proto, name), bind or {})


def check(path: str | os.PathLike[str], bind: Mapping[str, int] | None = None) -> Report:
    """What of the model can be imported. Raises MdslError for a file that is no valid model, OSError."""
    model = load(path)
    with _named(model):
        graph = _convert(model, bind or {})[0]
    return Report(model.name, tuple(graph.problems), graph.converted, graph.unjudged)


def _module(model: Model, bind: Mapping[str, int]) -> ModuleOp:
    with _named(model):
        graph, function = _convert(model, bind)
    if graph.problems:
        first, more = graph.problems[0], len(graph.problems) - 1
        rest = f"\n{more} more; 'mdsl import --check {model.name}' lists all" if more else ""
        raise MdslError(
            f"{model.name}: error: {first}{_open_hint(model, bind, first)}{rest}"
        ) from first.cause
    module = ModuleOp(results=[], regions=[Region()])
    module.body.append(function)
    try:
        verify(module)
    except VerifyError as error:
        where = f" at {error.op.location}" if error.op.location else ""
        raise MdslError(f"{model.name}: error: {error}{where}") from error
    return module


def _open_hint(model: Model, bind: Mapping[str, int], problem: Problem) -> str:
    """What may help a node that cannot do without a size; nothing if no size helps, for its operator has no rule."""
    if rule_for(problem.domain, problem.op_type, model.opsets.get(problem.domain, 0)) is None:
        return ""
    inputs = _inputs(model.proto)
    pairs = [p for names in open_names(inputs).values() for p in names]
    names = {p[1]: None for p in pairs if p[1] and not {*p} & {*bind}}
    return f"; sizes that are open: {', '.join(names)} (give them with --bind)" if names else ""


def _inputs(proto: ModelProto) -> list[ValueInfoProto]:
    """The graph's inputs but for the weights that are listed among them."""
    given = {t.name for t in proto.graph.initializer}
    return [i for i in proto.graph.input if i.name not in given]


@contextmanager
def _named(model: Model) -> Generator[None]:
    """Puts the model's name before the message of an MdslError that does not say where it is from."""
    try:
        yield
    except MdslError as error:
        if not str(error).startswith("error: "):
            raise
        raise MdslError(f"{model.name}: {error}") from error.__cause__


def _convert(model: Model, bind: Mapping[str, int]) -> tuple[Graph, FuncOp]:
    """The converted graph in a function, complete if `graph.problems` is empty."""
    proto = model.proto.graph
    inputs = _inputs(model.proto)
    names = open_names(inputs)
    _check_bind(names, bind)
    block = Block()
    graph = Graph(model, block, _hints(model))
    scope = Scope(None, model.opsets)
    for info in (*inputs, *proto.output):
        check_text(info.name)
    for info in inputs:
        try:
            type = tensor_type(info.type, names[info.name], bind)
            graph.folder.check_size(type)
            value: Value | Missing = block.add_arg(type, info.name)
        except Unsupported as error:
            graph.problem(Problem(info.name, "input", "", {}, str(error)))
            value = Missing(info.name)
        scope.define(info.name, value, "the graph")
    graph.enter(proto, scope)
    results = _results(graph, scope)
    if graph.problems:  # the function lacks values: there is nothing to finish
        return graph, FuncOp.from_parts([], [], {}, [Region(block)])
    return graph, _finish(block, results, names, [o.name for o in proto.output])


def _results(graph: Graph, scope: Scope) -> list[Value]:
    """The values of the graph's outputs, in the program; an intermediate one takes the output's name."""
    found: list[Value] = []
    if not graph.model.proto.graph.output:
        raise MdslError("error: the graph has no outputs")
    names = {o.name for o in graph.model.proto.graph.output}
    for info in graph.model.proto.graph.output:
        value = graph.lookup(info.name, scope, "the graph's list of outputs")
        if isinstance(value, Missing):
            continue
        _check_element(info, value)
        graph.folder.materialise(value)
        if isinstance(value.owner, Op) and value.name not in names:
            value.name = info.name
        found.append(value)
    return found


def _check_element(info: ValueInfoProto, value: Value) -> None:
    """Raises MdslError if the graph says that an output has other elements than its node gives it."""
    stated = info.type.tensor_type.elem_type
    try:
        wanted = element_type(stated) if stated else tensor(value).element
    except Unsupported as error:
        raise MdslError(f"error: output '{info.name}': {error}") from None
    if wanted != tensor(value).element:
        raise MdslError(
            f"error: the graph says that output '{info.name}' has elements of type {wanted}, its node gives {tensor(value)}"
        )


def _finish(
    block: Block, results: list[Value], inputs: dict[str, list[tuple[str, str]]], outputs: list[str]
) -> FuncOp:
    """The function around the block, without what nothing uses, with exact names of what goes in and out."""
    block.append(Return(results))
    for op in reversed(block.ops):
        if op.results and not any(r.users for r in op.results):
            op.erase()
    function = FuncOp.from_parts([], [], {"sym_name": StringAttr("main")}, [Region(block)])
    function.update_type()
    printer = Printer(generic=False, locations=False)
    printer.name_values(function)
    shown = [printer.names[v] for v in results]
    function.set_result_attributes(
        [{} if a == b else {NAME: StringAttr(b)} for a, b in zip(shown, outputs, strict=True)]
    )
    function.set_arg_attributes(
        [_argument(a, printer.names[a], *i) for a, i in zip(block.args, inputs.items(), strict=True)]
    )
    return function


def _argument(arg: Value, shown: str, name: str, dims: list[tuple[str, str]]) -> dict[str, Attribute]:
    """What the text must say of an argument beside its type: its name, the names of its open dimensions."""
    attributes: dict[str, Attribute] = {} if shown == name else {NAME: StringAttr(name)}
    sizes = enumerate(zip(dims, tensor(arg).shape, strict=True))
    names = [n if size == DYNAMIC and n != f"{name}.{d}" else "" for d, ((_, n), size) in sizes]
    if any(names):
        attributes[DIMS] = ArrayAttr(tuple(map(StringAttr, names)))
    return attributes


def _check_bind(dims: dict[str, list[tuple[str, str]]], bind: Mapping[str, int]) -> None:
    pairs = [p for found in dims.values() for p in found if p[1]]
    names = list(dict.fromkeys(mine for _, mine in pairs))
    for name, size in bind.items():
        if name not in names and name not in (given for given, _ in pairs):
            known = ", ".join(names) or "none"
            raise MdslError(
                f"error: no dimension '{name}' to bind{nearest(name, names)} (named dimensions: {known})"
            )
        if size < 0:
            raise MdslError(f"error: dimension '{name}' cannot be {size}")


def _hints(model: Model) -> dict[str, TensorType]:
    """What the graph states of its values, where it is complete."""
    found: dict[str, TensorType] = {}
    for info in (*model.proto.graph.value_info, *model.proto.graph.output):
        try:
            type = tensor_type(info.type)
        except Unsupported:
            continue
        if DYNAMIC not in type.shape:
            found[info.name] = type
    return found
