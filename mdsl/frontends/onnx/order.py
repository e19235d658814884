"""The nodes of a graph in an order in which each follows those that it reads from, whatever order the file has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from mdsl.errors import MdslError

if TYPE_CHECKING:
    from onnx import NodeProto


def in_order(nodes: Sequence[NodeProto], defined: Callable[[str], bool]) -> Sequence[NodeProto]:
    """The nodes, each behind those whose outputs it reads and as near to its place in the file as that allows. `defined`
    tells of a name that is known before them. Raises MdslError for nodes that wait for each other."""
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for output in node.output:
            makers.setdefault(output, i)
    waits = [{makers[n] for n in reads(node) if n in makers and not defined(n)} for node in nodes]
    if all(maker < i for i, makers_ in enumerate(waits) for maker in makers_):
        return nodes
    readers: list[list[int]] = [[] for _ in nodes]
    for i, found in enumerate(waits):
        for maker in found:
            readers[maker].append(i)
    left, order = list(map(len, waits)), list[int]()
    ready = [i for i, count in enumerate(left) if not count]
    heapify(ready)
    while ready:
        order.append(i := heappop(ready))
        for reader in readers[i]:
            left[reader] -= 1
            if not left[reader]:
                heappush(ready, reader)
    if len(order) < len(nodes):
        raise MdslError(f"error: a cycle of nodes: {_cycle(nodes, waits, set(order))}")
    return [nodes[i] for i in order]


def reads(node: NodeProto) -> Iterable[str]:
    """What a node reads, its bodies included, which see the names around them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            own = {t.name for t in (*graph.input, *graph.initializer)}.union(*(n.output for n in graph.node))
            inner = (name for n in graph.node for name in reads(n))
            yield from (name for name in (*inner, *(o.name for o in graph.output)) if name not in own)


def _cycle(nodes: Sequence[NodeProto], waits: Sequence[set[int]], done: set[int]) -> str:
    """A cycle among the nodes that are not done: `'a' (Add) reads 'b' (Relu), which reads 'a'`."""
    at = next(i for i in range(len(nodes)) if i not in done)
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = min(waits[at] - done)
    names = [nodes[i].name or next(o for o in nodes[i].output if o) for i in path[path.index(at) :]]
    shown = [f"'{name}'" for name in (*names, names[0])]
    return " reads ".join(shown) if len(shown) < 9 else f"{' reads '.join(shown[:7])} ... reads {shown[-1]}"
