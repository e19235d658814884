"""Calls of a step's programs: arrays by name go in, and what a step alters is altered."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.compiler.entry import closed
from mdsl.dialects.func import GRADIENT
from mdsl.errors import MdslError
from mdsl.runtime.executable import Executable
from mdsl.support import across
from mdsl.training.data import Arrays
from mdsl.training.faults import fault
from mdsl.training.held import Held
from mdsl.training.processes import Processes
from mdsl.training.programs import Programs


class Steps:
    """One step after the other, in a program that keeps what a step hands on to the next in blocks of its own. With several processes
    the gradients are averaged between the two programs of a step, and so are the loss and what normalisations observe; so are those of
    the parts of a batch that are computed one after the other."""

    def __init__(
        self, programs: Programs, processes: Processes, compile: Callable[..., Executable], keeps: bool = True
    ) -> None:
        """`compile` makes an executable of a module; without `keeps` all arrays stay plain."""
        self.programs, self.processes = programs, processes
        self._step = compile(programs.step, pipeline="keep-layouts" if keeps else None)
        self._update = None if programs.update is None else compile(programs.update)
        self._gradients: Arrays = {}

    def specs(self) -> dict[str, TensorSpec]:
        """Of what a step is given, as plain arrays."""
        programs = [self._step] if self._update is None else [self._step, self._update]
        found = {spec.name: spec for p in programs for spec in closed(p.inputs)}
        for name, layout in self._step.layouts.items():
            found[name] = found[name]._replace(shape=layout.plain_shape(found[name].shape))
        return {n: s for n, s in found.items() if self._update is None or not n.startswith(GRADIENT)}

    def arrays(self) -> Held:
        """Zeros for what a step is given."""
        found = Held(self._step.layouts, {spec.name: spec.shape for spec in closed(self._step.inputs)})
        found.update((name, np.zeros(s.shape, DTYPES[s.dtype])) for name, s in self.specs().items())
        return found

    def __call__(self, arrays: Held, parts: Sequence[Arrays]) -> tuple[float, np.ndarray]:
        """Does a step on a batch in parts, of several the mean: the loss over all processes, and what the network answered here. What the
        step hands on is in `arrays`."""
        losses: list[float] = []
        answers: list[np.ndarray] = []
        found: Arrays = {}
        sums: Arrays = {}
        for part in parts:
            _fill(arrays, part)
            with across.among(self.processes.count, self.processes.total):
                found = _called(self._step, arrays.take)
            loss, answer = (found.pop(spec.name) for spec in self._step.outputs[:2])
            losses.append(float(loss))
            answers.append(answer)
            if len(parts) > 1:
                self._add(arrays, found, sums, 1 / len(parts))
        found |= sums
        mean = np.array(np.mean(losses), np.float64)
        if self._update is not None:
            self.processes.average([mean, *found.values()])
            self._gradients = {n: found.pop(n) for n in list(found) if n.startswith(GRADIENT)}
            given = ChainMap(self._gradients, arrays)
            found |= _called(self._update, given.__getitem__)
        _hand_on(arrays, found)
        return float(mean), answers[0] if len(answers) == 1 else np.concatenate(
            [np.atleast_1d(a) for a in answers]
        )

    def _add(self, arrays: Held, found: Arrays, sums: Arrays, share: float) -> None:
        """Adds the gradients of a part to those of the others; what normalisations observe the next part goes on with."""
        for name, array in found.items():
            if name.startswith(GRADIENT):
                sums[name] = sums.get(name, 0) + array * array.dtype.type(share)
        _hand_on(arrays, found)

    def fault(self, arrays: Held, parts: Sequence[Arrays], number: int) -> MdslError | None:
        """What went wrong in step `number`, which was called with `arrays` last, in this process, or None. The others do not wait for one
        that has found something."""
        found = None
        with suppress(_Left), across.among(self.processes.count, self._total_of_all):
            for part in parts:
                _fill(arrays, part)
                found = found or fault(self.programs.step, arrays, number)
            self.processes.gather(False)
        if found is None and self.programs.update is not None:
            found = fault(self.programs.update, ChainMap(self._gradients, arrays), number)
        return found

    def _total_of_all(self, array: np.ndarray) -> None:
        """Raises _Left where a process takes no part any more."""
        if not all(self.processes.gather(True)):
            raise _Left
        self.processes.total(array)


def _fill(arrays: Held, part: Arrays) -> None:
    """Puts what a part of a batch is given where the program takes it."""
    for name, array in part.items():
        np.copyto(arrays[name], array, casting="unsafe")


def _hand_on(arrays: Held, found: Arrays) -> None:
    for name, array in found.items():
        if name.endswith("_new"):
            arrays.put(name.removesuffix("_new"), array)


class _Left(Exception):
    """A process has ended what others are in the midst of."""


def _called(program: Executable, given: Callable[[str], np.ndarray]) -> Arrays:
    """The results by name."""
    results = program(*(given(str(spec.name)) for spec in program.inputs))
    names = [str(spec.name) for spec in program.outputs]
    return dict(zip(names, results if isinstance(results, tuple) else (results,), strict=True))
