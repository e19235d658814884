"""Data for training: arrays by name, and which samples each step takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.errors import MdslError

Arrays = dict[str, np.ndarray]
Transform = Callable[[Arrays, np.random.Generator], Arrays]
"""Alters a batch: `f(arrays, generator)`; the generator is that of the step, so that a resumed run does the same."""


def fitted(
    data: Mapping[str, np.ndarray],
    specs: Sequence[TensorSpec],
    what: str,
    hints: Mapping[str, str] | None = None,
) -> Arrays:
    """The arrays for inputs of these specs, sample by sample along their first dimension. An array belongs to the input of its name;
    if just one array and one input are left, they belong together. Raises MdslError; where the shape of an array does not fit, with the
    hint for that input."""
    left = {name: np.asarray(array) for name, array in data.items()}
    found = {spec.name: left.pop(spec.name) for spec in specs if spec.name in left}
    missing = [spec.name for spec in specs if spec.name not in found]
    if len(missing) == 1 and len(left) == 1:
        found[missing[0]] = next(iter(left.values()))
    elif missing:
        named = ", ".join(data)
        raise MdslError(f"error: {what} has no array for '{missing[0]}' (arrays: {named})")
    counts = {name: len(array) if array.ndim else 0 for name, array in found.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{n}' {c}" for n, c in counts.items())
        raise MdslError(f"error: {what} has different numbers of samples: {listed}")
    hints = hints or {}
    return {spec.name: _checked(found[spec.name], spec, what, hints.get(spec.name, "")) for spec in specs}


def check_labels(labels: np.ndarray, classes: int, ignored: int | None, what: str) -> None:
    """Raises MdslError for a label that is no class, of which nothing would be learnt."""
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        at = int(np.argwhere(wrong)[0][0])
        found = labels[wrong].flat[0]
        raise MdslError(
            f"error: {what}: sample {at} has the label {found}, the classes are 0 to {classes - 1}"
        )


def _checked(array: np.ndarray, spec: TensorSpec, what: str, hint: str) -> np.ndarray:
    if array.size != len(array) * prod(spec.shape[1:]):
        shape = "x".join(map(str, array.shape))
        wanted = "x".join(map(str, spec.shape[1:])) or "one number"
        raise MdslError(
            f"error: {what}: samples of '{spec.name}' have the shape {wanted}, the array is {shape}{hint}"
        )
    kind = DTYPES[spec.dtype].kind
    if array.dtype.kind not in "biufV" or (kind in "iu" and array.dtype.kind not in "iu"):
        raise MdslError(f"error: {what}: '{spec.name}' must be {spec.dtype}, got {array.dtype}")
    return array.reshape(len(array), *spec.shape[1:])


@dataclass
class Batches:
    """Which samples the steps take: each epoch all of them once in an order of its own, but for a rest that fills no batch.

    All follows from `seed` and the number of the step. Raises MdslError for fewer samples than a batch has.
    """

    samples: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < self.size:
            raise MdslError(f"error: {self.samples} samples do not fill a batch of {self.size}")
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """How many steps an epoch has."""
        return self.samples // self.size

    def __call__(self, step: int) -> np.ndarray:
        """The samples of step number `step`, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng([self.seed, epoch]).permutation(self.samples),
            )
        return self._order[place * self.size : (place + 1) * self.size]
