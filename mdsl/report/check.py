"""`--check-each`: the program is run before and after each pass, on the same random inputs.

On the lower levels of a large program the reference runs a sample of what micro-kernels do (`report/sampling.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.bytecode.module import TensorSpec
from mdsl.compiler.entry import OpenSpec, Spec, closed, open_dims, open_signature, random_arrays
from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import STATE
from mdsl.errors import MdslError
from mdsl.ir.core import Op
from mdsl.ir.types import type_of_dtype
from mdsl.passes.base import Pass, functions
from mdsl.passes.nn.bind import Bind
from mdsl.reference import entry_point, run
from mdsl.report.sampling import Natives, Recording, Sampling, worst
from mdsl.syntax.printer import print_module
from mdsl.syntax.resources import used


class Check(Hook):
    """Raises MdslError at the pass after which the reference gives another result than before it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.sizes: dict[str, int] = {}
        self.states: set[str] = set()
        """Inputs that an optimiser keeps, which are no negative numbers here: the mean of squares is none."""
        self.results: list[np.ndarray] | None = None
        self.old: ModuleOp | None = None
        self.number = 0
        self.natives: Natives = {}

    def before(self, module: ModuleOp, step: Pass) -> None:
        if isinstance(step, Bind):
            self.sizes |= dict(step.sizes)
        self.number += 1
        self.states |= _states(module)
        if self.results is None or isinstance(step, Bind):
            self.results = self._run(module, f"before pass {self.number}, {step.name}")
        self.old = None if self.results is None else module.clone()

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        if step.renews:
            self.results = None
            return
        if self.old is not None and _same(self.old, module):
            return
        results, wanted = self._run(module, f"after pass {self.number}, {step.name}"), self.results
        if results is not None and wanted is not None:
            kept = len(wanted) if step.appends else len(results)
            difference = first_difference(wanted, results[:kept], open_signature(module)[1][:kept])
            if difference:
                raise MdslError(
                    f"error: pass '{step}' changed the result: {difference} (inputs: seed {self.seed})",
                    *self._first_op(module),
                )
        self.results = results

    def _run(self, module: ModuleOp, what: str) -> list[np.ndarray] | None:
        """None as long as a dimension of an input has no size."""
        arrays = self._inputs(module)
        return None if arrays is None else run(module, arrays, evaluator=Sampling(module, what, self.natives))

    def _inputs(self, module: ModuleOp) -> list[np.ndarray] | None:
        specs = [self._sized(spec) for spec in open_signature(module)[0]]
        if open_dims(specs):
            return None
        arrays = random_arrays(closed(specs), self.seed)
        return [np.abs(a) if s.name in self.states else a for a, s in zip(arrays, specs, strict=True)]

    def _first_op(self, module: ModuleOp) -> list[str]:
        """Which op is the first whose value is another than that of the same name before the pass."""
        arrays = self._inputs(module)
        if self.old is None or arrays is None:
            return []
        recorded: list[dict[str, tuple[Op, np.ndarray]]] = []
        for program in (self.old, module):
            recording = Recording(program, entry_point(program), self.natives)
            run(program, arrays, evaluator=recording)
            recorded.append(recording.found)
        known, found = recorded
        for name, (op, array) in found.items():
            old = known[name][1] if name in known else array
            same = old.shape == array.shape and old.dtype == array.dtype
            place = worst(old, array, str(type_of_dtype(array.dtype))) if same else None
            if place is not None:
                return [_describe(name, op, old, array, place)]
        return []

    def _sized(self, spec: Spec) -> Spec:
        shape = [self.sizes.get(s, s) if isinstance(s, str) else s for s in spec.shape]
        sizes = tuple(s for s in shape if isinstance(s, int))
        if len(sizes) == len(shape):
            return TensorSpec(spec.name, spec.dtype, sizes)
        return OpenSpec(spec.name, spec.dtype, tuple(shape))


def _states(module: ModuleOp) -> set[str]:
    found = (zip(f.args, f.arg_attributes(), strict=True) for f in functions(module))
    return {str(arg.name) for pairs in found for arg, attributes in pairs if STATE in attributes}


def _same(old: ModuleOp, new: ModuleOp) -> bool:
    """True if both compute the same because they are the same, weights included."""
    weights = [{name: id(r.array) for name, r in used(module).items()} for module in (old, new)]
    return weights[0] == weights[1] and print_module(old) == print_module(new)


def _describe(name: str, op: Op, old: np.ndarray, new: np.ndarray, place: tuple[int, ...]) -> str:
    at = f" at {op.location.place}" if op.location else ""
    where = f"[{', '.join(map(str, place))}]"
    return f"  the first value that differs: %{name}, of '{op.name}'{at}; most at {where}, {new[place]} instead of {old[place]}"


def first_difference(
    wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], specs: Sequence[Spec]
) -> str | None:
    """What differs first between two lists of outputs, None if they agree within `TOLERANCE`."""
    if len(wanted) != len(found):
        return f"{len(found)} outputs instead of {len(wanted)}"
    for old, new, spec in zip(wanted, found, specs, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            return f"output '{spec.name}' is {new.dtype} {list(new.shape)} instead of {old.dtype} {list(old.shape)}"
        place = worst(old, new, spec.dtype)
        if place is not None:
            where = f"[{', '.join(map(str, place))}]" if place else ""
            return f"output '{spec.name}'{where} is {new[place]} instead of {old[place]}"
    return None
