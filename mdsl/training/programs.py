"""The programs that training runs: one for a step, one that judges; both made of the network by passes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from mdsl.compiler.entry import entry
from mdsl.compiler.pipeline import PassFailure, parse_pipeline, run_passes
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import GRADIENT, NAME, PARAMETER, STATE, FuncOp, Return
from mdsl.dialects.nn.training import CrossEntropy
from mdsl.errors import MdslError, Source, SyntaxError_, nearest
from mdsl.ir.attributes import Attribute, DenseResourceAttr, FloatAttr, Resource, StringAttr, UnitAttr
from mdsl.ir.core import Builder, Region
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, dtype_of
from mdsl.passes import pass_named, pass_names
from mdsl.passes.base import Pass
from mdsl.passes.nn.autodiff import Autodiff
from mdsl.passes.nn.loss import Loss
from mdsl.passes.nn.loss_scale import LossScale, scaled
from mdsl.passes.nn.optimizer import Optimizer
from mdsl.passes.nn.parameters import lift, roles_of, says_parameters
from mdsl.passes.nn.train_mode import TrainMode
from mdsl.passes.nn.trim_filters import TrimFilters

TARGETS = ("labels", "target")
"""What the argument with the right answers is called, one or the other."""

GIVEN = ("lr", "step", "key")
"""Arguments of a step that are not data, parameters or states."""


@dataclass(frozen=True)
class Programs:
    """`step` does one step, or, where there is an `update`, ends at the gradients, and that one does the rest; `judge` gives the loss of each sample or element and the answers as inference computes them; `weights` are the numbers that
    the network has, by the arguments' names; `inputs` the names of its own inputs, `target` that of the right answers (none of a network with a loss of its own), `axis` that of a
    classifier's answers along which the classes lie; `first` the numbers that states begin with, of those that do not begin with 0; `roles` as what layers read the weights. Weights whose data the network lacks are not in
    `weights`."""

    step: ModuleOp
    update: ModuleOp | None
    judge: ModuleOp
    weights: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    target: str
    axis: int
    first: dict[str, float]
    roles: dict[str, set[str]]
    classes: int
    """How many classes a classifier has, else 0."""
    ignored: int | None
    """The label that its loss ignores."""
    trained: tuple[str, ...]
    """The names of the weights that are trained."""
    shares: tuple[float, ...]
    """How much each class counts in its loss; nothing where all count alike."""


def programs_of(
    network: ModuleOp,
    loss: str,
    optimizer: str,
    batch: int,
    frozen: Sequence[str],
    train_mode: str = "train-mode",
    apart: bool = False,
    loss_scale: str = "",
    recompute: str = "",
    processes: int = 1,
    local_statistics: bool = False,
) -> Programs:
    """The programs for a network, which is altered; with `apart` gradients and update are two. A batch is shared by `processes`, each
    of which normalises its share by itself where `local_statistics` are asked for. Raises MdslError."""
    updating = _optimizer(optimizer)
    _rebatch(network, batch)
    function = _function(network)
    inputs = tuple(str(a.name) for a in function.args)
    losses = parse_pipeline(_loss(loss), "loss")
    own = any(isinstance(step, Loss) and step.kind == "own" for step in losses)
    clash = {*inputs} & {*GIVEN, *(() if own else TARGETS)}
    if clash:
        raise MdslError(f"error: the network's input '{min(clash)}' is called as one of training's own")
    weights = lift(function, master=True)
    roles = {str(a.name): roles_of(a) for a in function.body.args[len(inputs) :]}
    judge = network.clone()
    run_passes(network, losses)
    run_passes(judge, [replace(p, reduction="none") if isinstance(p, Loss) else p for p in losses])
    modes = [
        replace(p, parts=processes, local_statistics=local_statistics) if isinstance(p, TrainMode) else p
        for p in parse_pipeline(train_mode, "training")
    ]
    run_passes(network, [*modes, TrimFilters()])
    trained = _trained(function, frozen)
    scaling = _scaling(loss_scale)
    # By their numbers, for a value in the network may be called like one of them.
    wrt = tuple(str(number) for number, a in enumerate(function.args) if a.name in trained)
    run_passes(network, [Autodiff(wrt, seed="argument" if scaling else "")])
    if recompute:
        run_passes(network, parse_pipeline(f"recompute{{budget={recompute}}}", "recompute"))
    update = _update_of(function, trained) if apart else None
    if update is not None and scaling:
        scaled(function, scaling[0].scale)
    run_passes(network if update is None else update, [*scaling, *updating])
    if update is not None:
        _name_gradients(update, trained)
    target = "" if own else next(str(a.name) for a in function.args if a.name in TARGETS)
    compared = [op for op in judge.walk() if isinstance(op, CrossEntropy)]
    axis = int(compared[0].attr("axis")) if compared else -1
    classes = tensor_of(compared[0].logits).shape[axis] if compared else 0
    ignored = compared[0].attr("ignore_index") if compared else None
    shares = tuple(compared[0].attr("weights") or ()) if compared else ()
    first = _first_states(update or network)
    return Programs(
        network, update, judge, weights, inputs, target, axis, first, roles, classes, ignored, tuple(trained), shares
    )  # fmt: skip


def _rebatch(network: ModuleOp, batch: int) -> None:
    """Makes the network one for `batch` samples. Raises MdslError, which says what else can be done."""
    given = {tensor_of(a).shape[:1] for a in entry(network).args if isinstance(a.type, TensorType)}
    try:
        run_passes(network, parse_pipeline(f"inline,rebatch{{size={batch}}}", "training"))
    except PassFailure as error:
        open_sizes = (
            "export it with their number left open (dynamic_shapes or dynamic_axes of torch.onnx.export)"
        )
        (old,) = given.pop() if len(given) == 1 else (0,)
        if old < 1:
            raise MdslError(
                *str(error).split("\n"), f"note: of a network for samples {open_sizes}"
            ) from error
        parts = f", or compute each batch in parts of {old} (--accumulate)" if batch % old == 0 else ""
        samples = f"{old} sample{'s' * (old != 1)}"
        raise MdslError(
            *str(error).split("\n"), f"note: the network is for {samples}: {open_sizes}{parts}"
        ) from error


def _update_of(function: FuncOp, trained: Sequence[str]) -> ModuleOp:
    """A program that is given parameters and their gradients, and returns these: what an optimiser makes the update of."""
    parameters = [a for a in function.args if a.name in trained]
    types = [a.type for a in parameters]
    names = [str(a.name) for a in parameters]
    update = FuncOp.make("main", types * 2, types, [*names, *(f"{n}_slope" for n in names)])
    gradients = update.args[len(names) :]
    update.body.append(Return(gradients))
    marks: list[dict[str, Attribute]] = [{PARAMETER: UnitAttr()} for _ in names]
    update.set_arg_attributes([*marks, *({} for _ in names)])
    update.set_result_attributes([{NAME: StringAttr(f"{GRADIENT}{n}")} for n in names])
    module = ModuleOp(results=[], regions=[Region()])
    module.body.append(update)
    return module


def _name_gradients(update: ModuleOp, trained: Sequence[str]) -> None:
    """Calls the arguments as the results of the other program, now that the gradients are no results any more."""
    for argument in _function(update).args[len(trained) : 2 * len(trained)]:
        argument.name = f"{GRADIENT}{str(argument.name).removesuffix('_slope')}"


def _scaling(loss_scale: str) -> list[LossScale]:
    """The pass for a number, `dynamic`, or options such as `dynamic,interval=100`; none for nothing."""
    if not loss_scale:
        return []
    scale, *rest = loss_scale.split(",", 1)
    text = f"loss-scale{{scale={scale}{''.join(f',{r}' for r in rest)}}}"
    return [p for p in parse_pipeline(text, "loss scale") if isinstance(p, LossScale)]


def _first_states(step: ModuleOp) -> dict[str, float]:
    function = _function(step)
    pairs = zip(function.args, function.arg_attributes(), strict=True)
    marks = {str(arg.name): attributes.get(STATE) for arg, attributes in pairs}
    return {name: mark.value for name, mark in marks.items() if isinstance(mark, FloatAttr)}


def _optimizer(text: str) -> list[Pass]:
    """The passes of which one updates the parameters. Raises MdslError for none or several."""
    known = [name for name in pass_names() if issubclass(pass_named(name) or Pass, Optimizer)]
    word = re.match(r"[\w-]*", text.strip())
    if word is not None and word[0] and pass_named(word[0]) is None:
        message = f"unknown optimizer '{word[0]}'{nearest(word[0], known)} (optimizers: {', '.join(known)})"
        raise SyntaxError_(message, Source("optimizer", text), text.index(word[0]), len(word[0]))
    found = parse_pipeline(text, "optimizer") if text.strip() else []
    if sum(isinstance(step, Optimizer) for step in found) != 1:
        message = f"expected one optimizer (optimizers: {', '.join(known)})"
        raise SyntaxError_(message, Source("optimizer", text), 0, max(1, len(text)))
    return found


def _loss(text: str) -> str:
    """`cross_entropy{smoothing=0.1}` as a pass: `loss{kind=cross_entropy,smoothing=0.1}`."""
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\{(.*)\})?\s*", text)
    if found is None:
        raise MdslError(f"error: '{text}' is not a loss: cross_entropy, mse, bce or own")
    return f"loss{{kind={found[1]}{f',{found[2]}' if found[2] else ''}}}"


def _function(module: ModuleOp) -> FuncOp:
    function = entry(module)
    if not isinstance(function, FuncOp):
        raise MdslError("error: only a network of nn ops can be trained")
    return function


def _trained(function: FuncOp, frozen: Sequence[str]) -> list[str]:
    """The names of the parameters that are trained, none that a pattern of `frozen` matches. Raises MdslError for a pattern that matches none."""
    names = [
        str(arg.name)
        for arg, attributes in zip(function.args, function.arg_attributes(), strict=True)
        if PARAMETER in attributes
    ]
    stays = {pattern: {n for n in names if n == pattern or fnmatchcase(n, pattern)} for pattern in frozen}
    for pattern, matched in stays.items():
        if not matched:
            hint = nearest(pattern, names)
            raise MdslError(
                f"error: the network has no parameter '{pattern}'{hint} (parameters: {', '.join(names)})"
            )
    found = [name for name in names if not any(name in matched for matched in stays.values())]
    if not found:
        raise MdslError(
            "error: all parameters of the network are frozen"
            if names
            else "error: the network has no parameters to train: constants that layers read as weights"
        )
    return found


def weights_of(network: ModuleOp) -> set[str]:
    """The names that the weights of a network get."""
    function = _function(network.clone())
    inputs = len(function.args)
    lift(function)
    return {str(a.name) for a in function.args[inputs:]}


def with_weights(network: ModuleOp, weights: Mapping[str, np.ndarray]) -> ModuleOp:
    """A copy of a network that has these weights, by the names that `programs_of` gave them."""
    network = network.clone()
    function = _function(network)
    given = function.arg_attributes()
    told = says_parameters(function)
    lift(function)
    builder = Builder(function.body, function.body.first)
    lifted = zip(function.body.args[len(given) :], function.arg_attributes()[len(given) :], strict=True)
    for argument, found in lifted:
        name, type = str(argument.name), tensor_of(argument)
        attribute = DenseResourceAttr(name, type, Resource(np.array(weights[name], dtype_of(type.element))))
        marks: dict[str, Attribute] = {PARAMETER: UnitAttr()} if told and PARAMETER in found else {}
        constant = Constant.from_parts([], [type], {**marks, "value": attribute})
        argument.replace_by(builder.value(constant, name))
    function.body.args = function.body.args[: len(given)]
    function.set_arg_attributes(given)
    function.update_type()
    return network
