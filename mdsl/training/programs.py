"""The programs that training runs: one for a step, one that judges; both made of the network by passes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdsl.compiler.entry import entry
from mdsl.compiler.pipeline import parse_pipeline, run_passes
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import PARAMETER, STATE, FuncOp
from mdsl.dialects.nn.training import CrossEntropy
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseResourceAttr, Resource
from mdsl.ir.core import Builder
from mdsl.ir.typed import tensor_of
from mdsl.passes.nn.autodiff import Autodiff
from mdsl.passes.nn.parameters import lift, roles_of

TARGETS = ("labels", "target")
"""What the argument with the right answers is called, one or the other."""

GIVEN = ("lr", "step", "key")
"""Arguments of a step that are not data, parameters or states."""


@dataclass(frozen=True)
class Programs:
    """`step` does one step; `judge` gives the loss and the answers as inference computes them; `weights` are the numbers that
    the network has, by the arguments' names; `inputs` the names of its own inputs, `target` that of the right answers, `axis` that of a
    classifier's answers along which the classes lie; `roles` as what layers read the weights. Weights whose data the network lacks are not in
    `weights`."""

    step: ModuleOp
    judge: ModuleOp
    weights: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    target: str
    axis: int
    roles: dict[str, set[str]]


def programs_of(
    network: ModuleOp,
    loss: str,
    optimizer: str,
    batch: int,
    frozen: Sequence[str],
    train_mode: str = "train-mode",
) -> Programs:
    """The programs for a network, which is altered. Raises MdslError."""
    run_passes(network, parse_pipeline(f"inline,rebatch{{size={batch}}}", "training"))
    function = _function(network)
    inputs = tuple(str(a.name) for a in function.args)
    clash = {*inputs} & {*TARGETS, *GIVEN}
    if clash:
        raise MdslError(f"error: the network's input '{min(clash)}' is called as one of training's own")
    weights = lift(function)
    roles = {str(a.name): roles_of(a) for a in function.body.args[len(inputs) :]}
    run_passes(network, parse_pipeline(_loss(loss), "loss"))
    judge = network.clone()
    run_passes(network, parse_pipeline(train_mode, "training"))
    run_passes(network, [Autodiff(tuple(_trained(function, frozen)))])
    run_passes(network, parse_pipeline(optimizer, "optimizer"))
    target = next(str(a.name) for a in function.args if a.name in TARGETS)
    compared = [op for op in judge.walk() if isinstance(op, CrossEntropy)]
    axis = int(compared[0].attr("axis")) if compared else -1
    return Programs(network, judge, weights, inputs, target, axis, roles)


def _loss(text: str) -> str:
    """`cross_entropy{smoothing=0.1}` as a pass: `loss{kind=cross_entropy,smoothing=0.1}`."""
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\{(.*)\})?\s*", text)
    if found is None:
        raise MdslError(f"error: '{text}' is not a loss: cross_entropy, mse or bce")
    return f"loss{{kind={found[1]}{f',{found[2]}' if found[2] else ''}}}"


def _function(module: ModuleOp) -> FuncOp:
    function = entry(module)
    if not isinstance(function, FuncOp):
        raise MdslError("error: only a network of nn ops can be trained")
    return function


def _trained(function: FuncOp, frozen: Sequence[str]) -> list[str]:
    """The names of the parameters that are trained. Raises MdslError for a frozen one that there is not."""
    names = [
        str(arg.name)
        for arg, attributes in zip(function.args, function.arg_attributes(), strict=True)
        if PARAMETER in attributes
    ]
    unknown = [name for name in frozen if name not in names]
    if unknown:
        raise MdslError(
            f"error: the network has no parameter '{unknown[0]}' (parameters: {', '.join(names)})"
        )
    found = [name for name in names if name not in frozen]
    if not found:
        raise MdslError(
            "error: the network has no parameters to train: constants that layers read as weights"
        )
    return found


def states_of(step: ModuleOp) -> list[str]:
    """The names of the arguments that an optimiser keeps."""
    function = _function(step)
    pairs = zip(function.args, function.arg_attributes(), strict=True)
    return [str(arg.name) for arg, attributes in pairs if STATE in attributes]


def with_weights(network: ModuleOp, weights: Mapping[str, np.ndarray]) -> ModuleOp:
    """A copy of a network that has these weights, by the names that `programs_of` gave them."""
    network = network.clone()
    function = _function(network)
    given = function.arg_attributes()
    lift(function)
    builder = Builder(function.body, function.body.first)
    for argument in function.body.args[len(given) :]:
        name, type = str(argument.name), tensor_of(argument)
        attribute = DenseResourceAttr(name, type, Resource(np.array(weights[name])))
        argument.replace_by(builder.value(Constant(value=attribute, results=[type]), name))
    function.body.args = function.body.args[: len(given)]
    function.set_arg_attributes(given)
    function.update_type()
    return network
