"""`--check-each`: the program is run before and after each pass, on the same random inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.bytecode.module import TensorSpec
from mdsl.compiler.entry import OpenSpec, Spec, closed, open_dims, open_signature, random_arrays
from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.passes.base import Pass
from mdsl.passes.nn.bind import Bind
from mdsl.reference import run

TOLERANCE = {"f64": 1e-9, "f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}
"""Difference allowed to reordered arithmetic, relative to the output's largest number (at least 1)."""


class Check(Hook):
    """Raises MdslError at the pass after which the reference gives another result than before it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.sizes: dict[str, int] = {}
        self.results: list[np.ndarray] | None = None

    def before(self, module: ModuleOp, step: Pass) -> None:
        if isinstance(step, Bind):
            self.sizes |= dict(step.sizes)
        if self.results is None or isinstance(step, Bind):
            self.results = self._run(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        results, wanted = self._run(module), self.results
        if results is not None and wanted is not None:
            difference = first_difference(wanted, results, open_signature(module)[1])
            if difference:
                raise MdslError(
                    f"error: pass '{step}' changed the result: {difference} (inputs: seed {self.seed})"
                )
        self.results = results

    def _run(self, module: ModuleOp) -> list[np.ndarray] | None:
        """None as long as a dimension of an input has no size."""
        specs = [self._sized(spec) for spec in open_signature(module)[0]]
        return None if open_dims(specs) else run(module, random_arrays(closed(specs), self.seed))

    def _sized(self, spec: Spec) -> Spec:
        shape = [self.sizes.get(s, s) if isinstance(s, str) else s for s in spec.shape]
        sizes = tuple(s for s in shape if isinstance(s, int))
        if len(sizes) == len(shape):
            return TensorSpec(spec.name, spec.dtype, sizes)
        return OpenSpec(spec.name, spec.dtype, tuple(shape))


def first_difference(
    wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], specs: Sequence[Spec]
) -> str | None:
    """What differs first between two lists of outputs, None if they agree within `TOLERANCE`."""
    if len(wanted) != len(found):
        return f"{len(found)} outputs instead of {len(wanted)}"
    for old, new, spec in zip(wanted, found, specs, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            return f"output '{spec.name}' is {new.dtype} {list(new.shape)} instead of {old.dtype} {list(old.shape)}"
        place = _worst(old, new, spec.dtype)
        if place is not None:
            where = f"[{', '.join(map(str, place))}]" if place else ""
            return f"output '{spec.name}'{where} is {new[place]} instead of {old[place]}"
    return None


def _worst(old: np.ndarray, new: np.ndarray, dtype: str) -> tuple[int, ...] | None:
    """The index of the largest difference, if it is beyond the tolerance."""
    if old.size == 0:
        return None
    if dtype not in TOLERANCE:
        wrong = old != new
        return tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
    a, b = old.astype(np.float64), new.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    finite = np.abs(a[np.isfinite(a)])
    limit = TOLERANCE[dtype] * max(1.0, float(finite.max(initial=0.0)))
    place = np.unravel_index(int(difference.argmax()), difference.shape)
    return tuple(int(i) for i in place) if difference[place] > limit else None
