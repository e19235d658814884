"""The importer: from a model to a module, with its arguments and results, or a report of what is not supported."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import DIMS, NAME, FuncOp, Return
from mdsl.errors import MdslError
from mdsl.frontends.deciding import is_small, undecided
from mdsl.frontends.onnx import rules
from mdsl.frontends.onnx.arguments import Arguments
from mdsl.frontends.onnx.graph import Graph, Missing, Problem, Scope
from mdsl.frontends.onnx.model import Model, check_text, load, model_of
from mdsl.frontends.onnx.registry import Unsupported
from mdsl.frontends.onnx.signature import Signature
from mdsl.frontends.onnx.tensors import element_type, tensor_type
from mdsl.ir.attributes import ArrayAttr, Attribute, StringAttr
from mdsl.ir.core import Block, Op, Region, Value, VerifyError
from mdsl.ir.naming import names_under
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType
from mdsl.ir.verifier import verify

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

for theme in iter_modules(rules.__path__):
    import_module(f"{rules.__name__}.{theme.name}")  # its rules enter `registry.RULES`


@dataclass(frozen=True)
class Report:
    """What `mdsl import --check` found: every node that is not supported, and how many are."""

    model: str
    problems: tuple[Problem, ...]
    supported: int
    unjudged: int
    """Nodes with a rule, behind an unsupported one that keeps their operands' types from being known."""
    waiting: tuple[Problem, ...] = ()
    """Nodes that are converted once more is known of the inputs: when they are bound, or at the first call."""

    def groups(self) -> list[list[Problem]]:
        """The problems with one operator and one reason together, the most frequent first."""
        found: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.problems:
            found.setdefault((problem.kind, problem.reason), []).append(problem)
        return sorted(found.values(), key=len, reverse=True)


@dataclass(frozen=True)
class Imported:
    """What an import made of a model: a module, or None where more must be known of the inputs before there can be one."""

    module: ModuleOp | None
    inputs: tuple[tuple[str, TensorType, tuple[str, ...]], ...]
    """The program's inputs: name, type, and the names of the dimensions that are open."""
    outputs: tuple[tuple[str, TensorType | None], ...]
    """The program's outputs; of some the type may not be known without a module."""
    values: tuple[str, ...]
    """The inputs whose numbers must be known for a module, or for shapes in it."""


class Source:
    """A model that is read, and can be imported with whatever is bound. Raises MdslError, OSError."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @staticmethod
    def of(program: str | os.PathLike[str] | ModelProto, name: str = "<model>") -> Source:
        """Of a file, or a model in memory."""
        is_path = isinstance(program, str | os.PathLike)
        return Source(load(program) if is_path else model_of(program, name))

    def files(self) -> list[Path]:
        """The files of external data that imports have read."""
        return self._model.tensors.files()

    def left_out(self) -> list[str]:
        """The parameters of the network that its exporter has not written, as far as it says so."""
        return Signature(self._model.proto).left_out()

    def imported(self, bind: Mapping[str, Any]) -> Imported:
        """The import with these sizes of dimensions and values of inputs, by name."""
        with _named(self._model):
            conversion = _Conversion(self._model, bind)
        problems = conversion.graph.problems
        if not all(p.may_go for p in problems):
            raise conversion.error()
        module = None if problems else conversion.module()
        return Imported(module, conversion.arguments(), conversion.outputs(), conversion.wanted())

    def module(self, bind: Mapping[str, Any], weights: bool = False) -> ModuleOp:
        """The module of the model. With `weights`, as a program is that will be read, altered or trained, what the framework that it is from
        would train is marked `mdsl.parameter` (`weights.py` says how it is told), is a resource however small it is, and whatever numbers it
        holds, and what is computed of it is not folded; but where that is needed for a shape nothing is marked. Raises MdslError also where
        more must be bound for one."""
        with _named(self._model):
            conversion = _Conversion(self._model, bind, weights)
        if conversion.graph.problems and weights:
            return self.module(bind)
        if conversion.graph.problems:
            raise conversion.error()
        return conversion.module()


def import_onnx(path: str | os.PathLike[str], bind: Mapping[str, Any] | None = None) -> ModuleOp:
    """The module of an `.onnx` file, its parameters marked. `bind` gives sizes of named dimensions and values of inputs. Raises MdslError,
    OSError."""
    return Source.of(path).module(bind or {}, weights=True)


def import_model(proto: ModelProto, bind: Mapping[str, Any] | None = None, name: str = "<model>") -> ModuleOp:
    """The same of a model in memory. Raises MdslError."""
    return Source.of(proto, name).module(bind or {}, weights=True)


def check(path: str | os.PathLike[str], bind: Mapping[str, Any] | None = None) -> Report:
    """What of the model can be imported. Raises MdslError for a file that is no valid model, OSError."""
    model = load(path)
    with _named(model):
        graph = _Conversion(model, bind or {}).graph
    problems, waiting = ([p for p in graph.problems if p.may_go is goes] for goes in (False, True))
    return Report(model.name, tuple(problems), graph.converted, graph.unjudged, tuple(waiting))


@contextmanager
def _named(model: Model) -> Generator[None]:
    """Puts the model's name before the message of an MdslError that does not say where it is from."""
    try:
        yield
    except MdslError as error:
        if not str(error).startswith("error: "):
            raise
        raise MdslError(f"{model.name}: {error}") from error.__cause__


class _Conversion:
    """A model converted as far as it can be."""

    def __init__(self, model: Model, bind: Mapping[str, Any], weights: bool = False) -> None:
        proto = model.proto.graph
        self.model, self.given, self.block = model, Arguments(model.proto, bind), Block()
        self.graph = Graph(model, self.block, _hints(model))
        self.graph.folder.weights = set() if weights else None
        scope = Scope(None, model.opsets)
        for info in (*self.given.inputs, *proto.output):
            check_text(info.name)
        for info in self.given.inputs:
            scope.define(info.name, self._input(info), "the graph")
        self.graph.enter(proto, scope)
        self.found = {
            o.name: self.graph.lookup(o.name, scope, "the graph's list of outputs") for o in proto.output
        }
        self.results = _results(self.graph, self.found)

    def _input(self, info: ValueInfoProto) -> Value | Missing:
        """An argument of the program, or the constant that it is bound to."""
        try:
            type = self.given.type(info)
            self.graph.folder.check_size(type)
        except Unsupported as error:
            self.graph.problem(Problem(info.name, "input", "", {}, str(error)))
            return Missing(info.name)
        value = self.given.value(info, type)
        if value is not None:
            return self.graph.folder.constant_value(value, info.name)
        return self.block.add_arg(type, info.name)

    def module(self) -> ModuleOp:
        """The module; there may be no problems. Raises MdslError."""
        dims = {str(a.name): self.given.dims[str(a.name)] for a in self.block.args}
        function = _finish(self.block, self.results, dims, list(self.found))
        module = ModuleOp(results=[], regions=[Region()])
        module.body.append(function)
        try:
            verify(module)
        except VerifyError as error:
            where = f" at {error.op.location}" if error.op.location else ""
            raise MdslError(f"{self.model.name}: error: {error}{where}") from error
        return module

    def arguments(self) -> tuple[tuple[str, TensorType, tuple[str, ...]], ...]:
        named = [(str(a.name), tensor_of(a)) for a in self.block.args]
        return tuple((name, type, self.given.open_dims(name, type)) for name, type in named)

    def outputs(self) -> tuple[tuple[str, TensorType | None], ...]:
        found = self.found.items()
        return tuple((name, tensor_of(v) if isinstance(v, Value) else None) for name, v in found)

    def wanted(self) -> tuple[str, ...]:
        """The inputs whose numbers must be known."""
        problems = self.graph.problems
        values = {v for p in problems for v in p.values} if problems else undecided(self.block.ops)[1]
        return tuple(str(a.name) for a in self.block.args if a in values and is_small(a))

    def error(self) -> MdslError:
        """Of a model that cannot be imported: the first problem that stays, or else the first, and what may help."""
        problems = self.graph.problems
        first, more = next((p for p in problems if not p.may_go), problems[0]), len(problems) - 1
        rest = [f"{more} more; 'mdsl import --check {self.model.name}' lists all"] if more else []
        error = MdslError(f"{self.model.name}: error: {first}{self._hint(first)}", *rest)
        error.__cause__ = first.cause
        return error

    def _hint(self, problem: Problem) -> str:
        """What may help a node that cannot do without a size or a value; nothing if none helps."""
        if not problem.may_go:
            return ""
        dims = {name: None for _, _, names in self.arguments() for name in names if name}
        sizes = f"; sizes that are open: {', '.join(dims)} (give them with --bind)" if dims else ""
        values = [str(a.name) for a in self.block.args if a in problem.values]
        return (
            f"{sizes}; inputs that decide: {', '.join(values)} (give them with --bind)" if values else sizes
        )


def _results(graph: Graph, outputs: Mapping[str, Value | Missing]) -> list[Value]:
    """The values of the graph's outputs, in the program; an intermediate one takes the output's name."""
    found: list[Value] = []
    if not graph.model.proto.graph.output:
        raise MdslError("error: the graph has no outputs")
    names = {o.name for o in graph.model.proto.graph.output}
    for info in graph.model.proto.graph.output:
        value = outputs[info.name]
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
        wanted = element_type(stated) if stated else tensor_of(value).element
    except Unsupported as error:
        raise MdslError(f"error: output '{info.name}': {error}") from None
    if wanted != tensor_of(value).element:
        raise MdslError(
            f"error: the graph says that output '{info.name}' has elements of type {wanted}, its node gives {tensor_of(value)}"
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
    names = names_under(function)
    shown = [names[v] for v in results]
    function.set_result_attributes(
        [{} if a == b else {NAME: StringAttr(b)} for a, b in zip(shown, outputs, strict=True)]
    )
    function.set_arg_attributes(
        [_argument(a, names[a], *i) for a, i in zip(block.args, inputs.items(), strict=True)]
    )
    return function


def _argument(arg: Value, shown: str, name: str, dims: list[tuple[str, str]]) -> dict[str, Attribute]:
    """What the text must say of an argument beside its type: its name, the names of its open dimensions."""
    attributes: dict[str, Attribute] = {} if shown == name else {NAME: StringAttr(name)}
    sizes = enumerate(zip(dims, tensor_of(arg).shape, strict=True))
    names = [n if size == DYNAMIC and n != f"{name}.{d}" else "" for d, ((_, n), size) in sizes]
    if any(names):
        attributes[DIMS] = ArrayAttr(tuple(map(StringAttr, names)))
    return attributes


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
