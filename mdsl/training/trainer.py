"""The trainer: takes a network and data through steps that an optimiser's pass has made."""

from __future__ import annotations

import hashlib
import os
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsl.api import Program, compile, source_of
from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.passes.nn.loss_scale import SCALE, SKIPPED
from mdsl.runtime.opened import for_training
from mdsl.syntax.printer import print_module
from mdsl.training.checkpoints import Run, check_arrays, check_same, load, save
from mdsl.training.data import Arrays, Batches, Transform, check_labels, fitted
from mdsl.training.faults import all_finite
from mdsl.training.processes import Fault, Processes
from mdsl.training.programs import Programs, programs_of, weights_of, with_weights
from mdsl.training.schedules import Schedule, check_rate
from mdsl.training.steps import Steps

if TYPE_CHECKING:
    from mdsl.runtime.executable import Executable

Rate = float | Callable[[int], float]


@dataclass(frozen=True)
class Score:
    """The mean loss, and of a classifier the share of right answers (else None)."""

    loss: float
    accuracy: float | None


class Trainer:
    """Trains a network: `Trainer("net.mir", data, optimizer="adam", lr=1e-3).train(2000)`.

    `program` is a network without a loss, on the graph level: what layers read as constant weights is trained, but for `frozen`
    names. `data` has an array for each input and for what should be answered (`labels`, integers, for "cross_entropy"; `target` for "mse" and
    "bce"), samples along the first dimension. `loss` and `optimizer` are passes: "cross_entropy{smoothing=0.1}", "sgd{momentum=0.9}". `lr` is a
    number or gives the rate for the number of a step, counted from 0. `transform` alters a batch. With the loss "own" the network's first result is its loss. Weights that the network has are kept, or
    with `init="random"` made anew, as is a matrix that is written as one number, `dense<0.0>`: normal numbers of variance 2 / fan-in (He et al.: Delving Deep into
    Rectifiers, 2015), 1 for scales and variances, else 0.
    All that is random follows from `seed`, so that two runs give the same bits, on one engine and number of
    threads, and so does one that was stopped and resumed. With `comm`, a communicator of mpi4py, processes train together: each takes
    its share of `batch`, and all have the same weights, those that one process would have; with `local_statistics` batch normalisation
    uses those of each share. `loss_scale`, a number or "dynamic", is for networks of 16 bits, whose weights
    are kept in f32 while they are trained. Without `winograd` 3x3 convolutions are summed up plainly. `recompute` is a budget for what is kept for the gradients: bytes, or a share. With `accumulate`
    a batch is computed in so many equal parts, one after the other, and the step is that of the mean of their gradients: less memory,
    and batch normalisation uses the statistics of each part. Raises MdslError.
    """

    def __init__(
        self,
        program: Program,
        data: Mapping[str, np.ndarray],
        *,
        loss: str = "cross_entropy",
        optimizer: str = "adam",
        lr: Rate = 1e-3,
        batch: int = 64,
        seed: int = 0,
        frozen: Sequence[str] = (),
        transform: Transform | None = None,
        init: str = "keep",
        train_mode: str = "train-mode",
        engine: str = "vm",
        threads: int = 1,
        winograd: bool = True,
        comm: Any = None,
        local_statistics: bool = False,
        loss_scale: str | float = "",
        recompute: str | float = "",
        accumulate: int = 1,
    ) -> None:
        if init not in ("keep", "random"):
            raise MdslError(f"error: init must be 'keep' or 'random', got '{init}'")
        if batch < 1:
            raise MdslError(f"error: a batch must have at least 1 sample, got {batch}")
        if not callable(lr):
            check_rate(lr)
        self.processes = Processes(comm)
        if batch % self.processes.count:
            raise MdslError(f"error: {self.processes.count} processes cannot share a batch of {batch} evenly")
        if accumulate < 1 or batch // self.processes.count % accumulate:
            raise MdslError(
                f"error: {batch // self.processes.count} samples cannot be computed in {accumulate} equal parts"
            )
        self.accumulate, self.share = accumulate, batch // self.processes.count // accumulate
        source = source_of(program)
        self.network, sized = for_training(source, self.share)
        self.programs: Programs = programs_of(
            sized.clone(),
            loss,
            optimizer,
            self.share,
            frozen,
            train_mode,
            comm is not None or accumulate > 1,
            str(loss_scale),
            str(recompute),
            self.processes.count * accumulate,
            local_statistics or accumulate > 1,
        )
        if weights_of(self.network) != {*self.programs.roles}:
            self.network = sized
        self.left_out = () if isinstance(source, ModuleOp) else tuple(source.left_out())
        """Parameters that the network had where it is from, and that the exporter has merged into others or left out."""
        self.lr, self.batch, self.seed, self.transform = lr, batch, seed, transform
        self.classifies = self.programs.target == "labels"
        self._compile = partial(compile, engine=engine, threads=threads, winograd=winograd)
        self._steps = Steps(self.programs, self.processes, self._compile, engine != "reference")
        self.specs = self._steps.specs()
        self.data = self._fitted(data)
        self.batches = Batches(len(next(iter(self.data.values()))), batch, seed)
        self.arrays = self._steps.arrays()
        known = {} if init == "random" else self.programs.weights
        for name in self.programs.roles:
            self.arrays[name][...] = known[name] if name in known else self._initial(name)
        for name, value in self.programs.first.items():
            self.arrays[name][...] = value
        self.step = 0
        """How many steps there have been."""
        self.losses: list[float] = []
        self.answers = self._wanted = np.empty(0)
        """What the network has answered in the last step, to the share of this process."""
        self._kept: tuple[int, Arrays] = (0, self._copy())

    def _fitted(self, data: Mapping[str, np.ndarray]) -> Arrays:
        """The data for a step, checked. Raises MdslError."""
        found = fitted(data, self._data_specs(), "the data", {"labels": self._where_classes_lie()})
        if self.classifies:
            check_labels(
                found[self.programs.target], self.programs.classes, self.programs.ignored, "the data"
            )
        return found

    def _where_classes_lie(self) -> str:
        """What to say of labels that do not fit."""
        if not self.classifies:
            return ""
        rank, axis = len(self.specs[self.programs.target].shape) + 1, self.programs.axis
        if rank < 3:
            return "; labels are numbers of classes"
        other = 1 if axis != 1 else rank - 1
        return f"; classes lie along dimension {axis} of the result: 'cross_entropy{{axis={other}}}' takes another"

    def _data_specs(self) -> list[TensorSpec]:
        target = [self.programs.target] if self.programs.target else []
        return [self.specs[name] for name in (*self.programs.inputs, *target)]

    def _initial(self, name: str) -> np.ndarray | float:
        roles, shape = self.programs.roles[name], self.specs[name].shape
        if roles & {"scale", "variance", "running_variance"}:
            return 1.0
        if roles & {"bias", "shift", "mean", "running_mean"} or len(shape) < 2:
            return 0.0
        number = list(self.programs.roles).index(name)
        normal = np.random.default_rng([self.seed, number, 2]).standard_normal(shape)
        return normal * np.sqrt(2 / np.prod(shape[1:]))

    @property
    def parameters(self) -> Arrays:
        """The weights, statistics of normalisations among them, by name."""
        return {name: self.arrays[name] for name in self.programs.roles}

    @property
    def trains(self) -> str:
        """How much is trained: `24 parameters, 188 numbers; 2 more are observed or frozen`."""
        sizes = [self.arrays[name].size for name in self.programs.trained]
        others = len(self.programs.roles) - len(sizes)
        rest = f"; {others} more are observed or frozen" if others else ""
        return f"{len(sizes)} parameter{'s' * (len(sizes) != 1)}, {sum(sizes):,} numbers{rest}"

    @property
    def _remembered(self) -> list[str]:
        """The arrays that a step hands on to the next."""
        mine = {*self.programs.inputs, self.programs.target, "lr", "step", "key"}
        return [name for name in self.arrays if name not in mine]

    def _copy(self) -> Arrays:
        return {name: self.arrays[name].copy() for name in self._remembered}

    # Steps ----------------------------------------------------------------------------------------------------

    def advance(self) -> float:
        """One step; returns the loss before it. Raises MdslError where it is not finite, naming the op that made it so."""
        loss = self._run(self.step)
        self.step += 1
        if not np.isfinite(loss) or self._scale_is_lost():
            raise self._blame()
        self.losses.append(loss)
        return loss

    def _parts(self, step: int) -> list[Arrays]:
        """What step number `step` is given, for each part of the batch; what is the same for all is put into the arrays."""
        chosen = self.batches(step)
        batch = {name: array[chosen] for name, array in self.data.items()}
        if self.transform is not None:
            batch = self.transform(batch, np.random.default_rng([self.seed, step, 1]))
        mine = {name: self.processes.share(array) for name, array in batch.items()}
        self._wanted = mine.get(self.programs.target, np.empty(0))
        given: dict[str, Any] = {
            "lr": self.lr(step) if callable(self.lr) else self.lr,
            "step": step + 1 - int(self.arrays.get(SKIPPED, 0)),
        }
        for name, value in given.items():
            if name in self.arrays:
                self.arrays[name][...] = value
        return [self._part(mine, step, number) for number in range(self.accumulate)]

    def _part(self, mine: Arrays, step: int, number: int) -> Arrays:
        """Of the samples of this process those of a part, and the key of what is random there."""
        start = number * self.share
        found = {name: array[start : start + self.share] for name, array in mine.items()}
        if "key" in self.arrays:
            key = (_word(self.seed), step + 1, self.processes.rank * self.accumulate + number)
            found["key"] = np.resize(key, self.arrays["key"].shape)
        return found

    def _run(self, step: int) -> float:
        loss, self.answers = self._steps(self.arrays, self._parts(step))
        return loss

    def _scale_is_lost(self) -> bool:
        """True if the loss's scale has been halved so often that it cannot be why gradients are not finite."""
        return float(self.arrays.get(SCALE, 1)) < 2**-24

    def _blame(self) -> Fault:
        """Goes through the steps again from what was last kept, which gives the same bits, to the first that went wrong."""
        start, kept = self._kept
        for name, array in kept.items():
            self.arrays[name] = array.copy()
        for step in range(start, self.step):
            before = self._copy()
            loss = self._run(step)
            finite = np.isfinite(loss) and all_finite([self.arrays[n] for n in self._remembered])
            if not finite or self._scale_is_lost():
                self.arrays.update(before)
                found = self._steps.fault(self.arrays, self._parts(step), step + 1)
                why = f"error: step {step + 1}: the loss or a parameter is not finite, by the rounding of micro-kernels"
                messages = self.processes.gather(str(found or ""))
                return Fault(*next(filter(None, messages), why).split("\n"))
        return Fault(f"error: step {self.step}: the loss is not finite")

    @property
    def accuracy(self) -> float | None:
        """The share of right answers in the last step's batch, of this process; None of what is no classifier."""
        if not self.classifies or not self.answers.size:
            return None
        labels = self._wanted
        right = (self._chosen(self.answers) == labels)[labels != self.programs.ignored]
        return float(np.mean(right)) if right.size else None

    def train(
        self, steps: int, *, checkpoint: str | os.PathLike[str] | None = None, every: int = 500
    ) -> list[float]:
        """Goes on to step number `steps` in all; returns the losses of the steps that it did. A `checkpoint` is written after `every`
        so many steps, and at the end. Raises MdslError, OSError."""
        first = len(self.losses)
        for _ in self.run(steps, every=every):
            if checkpoint is not None and (self.step % every == 0 or self.step == steps):
                self.save(checkpoint)
        return self.losses[first:]

    def run(self, steps: int, every: int = 500) -> Iterator[float]:
        """The same, giving the loss after each step; what is needed to find a fault is kept after `every` so many."""
        while self.step < steps:
            loss = self.advance()
            if self.step % every == 0:
                self._kept = self.step, self._copy()
            yield loss

    def _chosen(self, answers: np.ndarray) -> np.ndarray:
        """The class of each answer."""
        return answers.argmax(axis=self.programs.axis)

    # Judging --------------------------------------------------------------------------------------------------

    @cached_property
    def _judge(self) -> Executable:
        """What judges, compiled when it is asked for first."""
        return self._compile(self.programs.judge)

    def answer(self, **inputs: np.ndarray) -> np.ndarray:
        """What the network answers, as it is now, to any number of samples."""
        specs = [self.specs[name] for name in self.programs.inputs]
        data = fitted(inputs, specs, "the input")
        return np.concatenate([answers for _, answers in self._judged(data)])

    def evaluate(self, data: Mapping[str, np.ndarray]) -> Score:
        """Loss and accuracy on data like those of training, of any number of samples but 0."""
        found = self._fitted(data)
        if not len(next(iter(found.values()))):
            raise MdslError("error: the data to judge by have no samples")
        losses, answers = (np.concatenate(parts) for parts in zip(*self._judged(found), strict=True))
        if not self.classifies:
            return Score(float(losses.mean(dtype=np.float64)), None)
        wanted = found[self.programs.target]
        counted = wanted != self.programs.ignored
        if not counted.any():
            raise MdslError("error: all labels of the data to judge by are ignored")
        right = np.mean((self._chosen(answers) == wanted)[counted])
        shares = np.array(self.programs.shares)[wanted[counted]] if self.programs.shares else None
        if shares is not None and not shares.any():
            raise MdslError("error: all classes in the data to judge by have the weight 0")
        total = counted.sum() if shares is None else shares.sum()
        return Score(float(losses[counted].sum(dtype=np.float64) / total), float(right))

    def _judged(self, data: Arrays) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Losses and answers of all samples, batch by batch; zeros stand where there is no right answer, and fill up the last one."""
        count, own = len(next(iter(data.values()))), self._data_specs()
        if not self._judge.outputs[0].shape:  # a loss of its own, of a whole batch
            count -= count % self.share
            if not count:
                raise MdslError(f"error: the data to judge by do not fill a batch of {self.share}")
        blank = {spec.name: np.zeros(spec.shape, DTYPES[spec.dtype]) for spec in own}
        for start in range(0, count, self.share):
            left = min(self.share, count - start)
            for name, array in data.items():
                blank[name][:left] = array[start : start + left]
            given = ChainMap(blank, self.arrays)
            losses, answers, *_ = self._judge(*(given[str(spec.name)] for spec in self._judge.inputs))
            yield np.atleast_1d(losses)[:left], np.atleast_1d(answers)[:left]

    # Files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint: weights by name, states of the optimiser, losses, the place in the run. Raises OSError."""
        arrays = {name: self.arrays[name] for name in self._remembered}
        save(Path(path), arrays, np.array(self.losses, np.float32), self._run_now())

    def _run_now(self) -> Run:
        """What the run is, and how far."""
        return replace(self._beginning, step=self.step)

    @cached_property
    def _beginning(self) -> Run:
        """What the run is; of its data and programs it takes digests, once."""
        programs = (self.programs.step, self.programs.update)
        text = "".join(print_module(p, data=False) for p in programs if p is not None)
        digest = hashlib.sha256()
        for name, array in self.data.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        program = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Run(0, self.seed, self.batch, program, digest.hexdigest()[:16], self.processes.count)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Takes up a run where a checkpoint left it: what follows gives the bits that it would have given. Raises
        MdslError for one of another run, OSError."""
        arrays, losses, run = load(Path(path))
        check_same(Path(path), run, self._run_now())
        check_arrays(Path(path), arrays, {name: self.arrays[name] for name in self._remembered})
        for name in self._remembered:
            self.arrays[name] = np.array(arrays[name])
        self.step, self.losses = run.step, [float(loss) for loss in losses]
        self._kept = self.step, self._copy()

    def trained(self) -> ModuleOp:
        """The network with the weights that it has now."""
        return with_weights(self.network, self.parameters)


def _word(seed: int) -> int:
    """32 bits of the seed as a signed number."""
    return (seed + (1 << 31)) % (1 << 32) - (1 << 31)


__all__ = ["Schedule", "Score", "Trainer"]
