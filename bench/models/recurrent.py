"""Small recurrent heads, as of a recogniser of speech or text: an LSTM or a GRU over some steps, and a linear layer."""

from __future__ import annotations

from math import sqrt
from typing import Any

from onnx import ModelProto, helper

from bench.models.net import Net

GATES = {"LSTM": 4, "GRU": 3}


def head(
    kind: str = "LSTM", steps: int = 64, ins: int = 128, hidden: int = 128, classes: int = 96, seed: int = 0
) -> ModelProto:
    """`steps` x 1 x `ins` to `steps` x 1 x `classes`."""
    net, rows = Net(seed), GATES[kind] * hidden
    names = (
        net.drawn(1, rows, ins, deviation=sqrt(1 / hidden)),
        net.drawn(1, rows, hidden, deviation=sqrt(1 / hidden)),
        net.drawn(1, 2 * rows),
    )
    start = net.weight("h0", net.random.standard_normal((1, 1, hidden)) * 0)
    states = (start, start) if kind == "LSTM" else (start,)
    how: dict[str, Any] = {"hidden_size": hidden, **({"linear_before_reset": 1} if kind == "GRU" else {})}
    net.nodes.append(
        helper.make_node(kind, ["x", *names, "", *states], [f"/{kind}_output_0"], f"/{kind}", **how)
    )
    x = net.dense(net.op("Squeeze", f"/{kind}_output_0", net.ints(1)), hidden, classes)
    return net.model(("x", (steps, 1, ins)), (net.op("Softmax", x, axis=-1), (steps, 1, classes)))
