"""What PyTorch's newer exporter says of a model's parameters, in metadata that no other reader needs.

Unless it is told `optimize=False` it computes what can be computed of weights (the transpose that a linear layer takes), writes tensors of
equal numbers once, be they one parameter or several that begin alike (biases of zeros, copied layers), and leaves out what changes no
answer: zero biases, normalisations that it merges into convolutions. But the graph lists all parameters, a tensor that was computed what
of, and a node which parameters it read. Weights that PyTorch ties have one name there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, StringStringEntryProto

_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
_NODE = "pkg.torch.onnx.fx_node"
_NAMED = "pkg.torch.onnx.original_node_name"

_PARAMETER = re.compile(r"^\s*(\w+): PARAMETER target='([^'\n]*)'", re.MULTILINE)


def _entries(properties: Iterable[StringStringEntryProto]) -> Iterator[tuple[str, str]]:
    """What metadata say; not what is no text, which protobuf lets through as bytes."""
    return ((e.key, e.value) for e in properties if isinstance(e.key, str) and isinstance(e.value, str))


class Signature:
    """The parameters of a model as PyTorch knows them, by their names there. Without such metadata it `is_silent`."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        infos = (*model.graph.value_info, *model.graph.input)
        notes = {info.name: dict(_entries(info.metadata_props)) for info in infos}
        kinds = {name: said[_KIND] for name, said in notes.items() if _KIND in said}
        text = "\n".join(v for k, v in _entries(model.graph.metadata_props) if k == _SIGNATURE)
        self._called = dict(_PARAMETER.findall(text))
        """Parameters by their names in PyTorch's graph."""
        self._called |= {
            said[_NAMED]: name
            for name, said in notes.items()
            if kinds.get(name) == "PARAMETER" and _NAMED in said
        }
        listed = {*_PARAMETER.findall(text)}
        self.parameters = {name for name, kind in kinds.items() if kind == "PARAMETER"}
        self.parameters |= {name for _, name in listed if name not in kinds}
        self.is_silent = not kinds and not listed
        self._made_of = {
            name: {*re.findall(r"'([^']*)'", said[_FOLDED])} & self.parameters
            for name, said in notes.items()
            if _FOLDED in said
        }

    def is_parameter(self, name: str) -> bool:
        """Whether the initializer is a parameter, or computed of some."""
        return name in self.parameters or bool(self._made_of.get(name))

    def origin(self, name: str) -> str:
        """The one parameter that the initializer was computed of; else itself."""
        made_of = self._made_of.get(name, set[str]())
        return min(made_of) if len(made_of) == 1 else name

    def title(self, name: str) -> str:
        """What to call the initializer: after the parameters that it was computed of, so that patterns of names find it."""
        made_of = self._made_of.get(name)
        return f"{min(made_of)}_folded" if made_of else name

    @cached_property
    def _written(self) -> set[str]:
        """The parameters that have an initializer, or that one was computed of."""
        names = {tensor.name for tensor in self._graph.initializer}
        return names.union(*(self._made_of.get(name, ()) for name in names))

    def _read(self, node: NodeProto) -> list[str]:
        """The parameters that the node read in PyTorch's graph, in the order of its arguments."""
        text = " ".join(v for k, v in _entries(node.metadata_props) if k == _NODE)
        return [self._called[name] for name in re.findall(r"%(\w+)", text) if name in self._called]

    @cached_property
    def _own(self) -> set[str]:
        """The initializers that some node reads as the parameter that they are called after."""
        return {
            name for node in self._graph.node for name in node.input if self.origin(name) in self._read(node)
        }

    def meant(self, node: NodeProto, name: str) -> str:
        """The parameter that the node reads as the initializer `name`, with the numbers of which another one was written: of those that have
        no initializer that which is called as this one in its own layer (`bias`), or the only one. Else `name` itself: also where no node
        reads it as what it is called, as it was merged with others."""
        own, read = self.origin(name), self._read(node)
        if own in read or own not in self.parameters or name not in self._own:
            return name
        lost = [parameter for parameter in read if parameter not in self._written]
        alike = [p for p in lost if p.rpartition(".")[2] == own.rpartition(".")[2]] or lost
        return alike[0] if len(alike) == 1 else name

    def left_out(self) -> list[str]:
        """The parameters that nodes read and that the model does not have."""
        if self.is_silent:
            return []
        nodes = self._graph.node
        read = dict.fromkeys(parameter for node in nodes for parameter in self._read(node))
        found = {self.meant(node, name) for node in nodes for name in node.input}
        return [parameter for parameter in read if parameter not in self._written | found]
