"""Reducing an ONNX model, with the `onnx` package, to a smaller ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdsl.errors import MdslError
from mdsl.report.reduce import Reducer


def load_model(path: Path) -> Any:
    """The `onnx.ModelProto` in the file, its weights with it. Raises MdslError, OSError."""
    try:
        import onnx
    except ImportError:
        raise MdslError(
            f"{path}: error: reducing a model needs the package onnx: pip install 'mdsl[onnx]'"
        ) from None
    try:
        return onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's errors are of no public class
        raise MdslError(f"{path}: error: not a readable ONNX model: {error}") from None


def reduce_model(model: Any, is_interesting: Callable[[Any], bool], accepted: Callable[[Any], None]) -> Any:
    """The smallest model that is interesting and, if `model` does, passes onnx's checker. Raises MdslError if `model` is
    not interesting."""
    import onnx

    if not is_interesting(model):
        raise MdslError(
            "error: the test does not find the model interesting as it is (its exit code must be 0)"
        )
    types, is_valid = _types(onnx, model), _passes(onnx, model)

    def edited(edit: Callable[[Any, range], bool]) -> Callable[[Any, range], Any | None]:
        def way(old: Any, part: range) -> Any | None:
            copy = type(old)()
            copy.CopyFrom(old)
            if not edit(copy.graph, part):
                return None
            if not _repair(copy.graph, types):
                return None
            return None if is_valid and not _passes(onnx, copy) else copy

        return way

    reducer = Reducer(model, is_interesting, accepted, _bytes)
    return reducer.reduce([(count, [edited(edit)]) for count, edit in _SWEEPS])


def _bytes(model: Any) -> bytes:
    return model.SerializeToString(deterministic=True)


def _passes(onnx: Any, model: Any) -> bool:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError):  # ValueError: more than 2 GB
        return False
    return True


def _types(onnx: Any, model: Any) -> dict[str, Any]:
    """What is known of the types of tensors, by name."""
    copy = type(model)()
    copy.CopyFrom(model)
    copy.ir_version = max(
        4, model.ir_version
    )  # before, constants had to be inputs too, or were not looked at
    try:
        graph = onnx.shape_inference.infer_shapes(copy).graph
    except Exception:  # a model that onnx cannot follow may be the one to reduce
        graph = model.graph
    found = {info.name: info for infos in (graph.value_info, graph.output, graph.input) for info in infos}
    for data in model.graph.initializer:
        found[data.name] = onnx.helper.make_tensor_value_info(data.name, data.data_type, data.dims)
    return found


def _repair(graph: Any, types: dict[str, Any]) -> bool:
    """Makes inputs of tensors that nothing makes any more, drops what nothing reads, and gives a graph without outputs those
    that nothing reads. False if a tensor's type is not known, or if nothing is left."""
    made = {name for node in graph.node for name in node.output}
    kept = [o for o in graph.output if o.name in made]
    read = {name for node in graph.node for name in _reads(node) if name}
    if not kept:
        kept = [types[n] for node in graph.node for n in node.output if n in types and n not in read]
    _set(graph.output, kept)
    _set(graph.initializer, [i for i in graph.initializer if i.name in read])
    given = {i.name for i in graph.initializer}
    _set(graph.input, [i for i in graph.input if i.name in read])
    given |= {i.name for i in graph.input}
    missing = sorted(read - made - given)
    if any(name not in types for name in missing):
        return False
    graph.input.extend(types[name] for name in missing)
    _set(graph.value_info, [v for v in graph.value_info if v.name in made])
    return bool(graph.node) and bool(kept)


def _reads(node: Any) -> list[str]:
    """The tensors that a node reads, in its subgraphs too."""
    found = [*node.input]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            inside = {name for inner in graph.node for name in inner.output} | {
                i.name for i in (*graph.input, *graph.initializer)
            }
            read = [name for inner in graph.node for name in _reads(inner)] + [o.name for o in graph.output]
            found += [name for name in read if name not in inside]
    return found


def _set(field: Any, items: list[Any]) -> None:
    """Replaces the items of a repeated field."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _drop_nodes(graph: Any, part: range) -> bool:
    del graph.node[part.start : part.stop]
    return True


def _drop_outputs(graph: Any, part: range) -> bool:
    """Drops outputs and the nodes that led to nothing else."""
    del graph.output[part.start : part.stop]
    if not graph.output:
        return False
    needed = {o.name for o in graph.output}
    for number in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[number].output):
            del graph.node[number]
        else:
            needed.update(_reads(graph.node[number]))
    return True


def _drop_initializers(graph: Any, part: range) -> bool:
    """Makes inputs of constants."""
    del graph.initializer[part.start : part.stop]
    return True


def _attributes(graph: Any) -> list[tuple[Any, int]]:
    return [(node, i) for node in graph.node for i in range(len(node.attribute))]


def _drop_attributes(graph: Any, part: range) -> bool:
    for node, number in reversed(_attributes(graph)[part.start : part.stop]):
        del node.attribute[number]
    return True


_SWEEPS: tuple[tuple[Callable[[Any], int], Callable[[Any, range], bool]], ...] = (
    (lambda model: len(model.graph.output), _drop_outputs),
    (lambda model: len(model.graph.node), _drop_nodes),
    (lambda model: len(model.graph.initializer), _drop_initializers),
    (lambda model: len(_attributes(model.graph)), _drop_attributes),
)
