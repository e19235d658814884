"""Checkpoints: a `.safetensors` file with weights, states of the optimiser, losses, and how far a run is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdsl.errors import MdslError
from mdsl.support.files import replacing

LOSSES = "mdsl.losses"
"""The name of the tensor with the losses of all steps."""

_KEY, _DIGEST = "mdsl.training", "mdsl.digest"


@dataclass(frozen=True)
class Run:
    """What a run is, so that it goes on as it would have: random numbers and the place in the data follow from `seed` and
    `step`. `program` is a digest of the step's program, `data` one of the data."""

    step: int
    seed: int
    batch: int
    program: str
    data: str
    processes: int = 1


def save(path: Path, arrays: dict[str, np.ndarray], losses: np.ndarray, run: Run) -> None:
    """Writes the file, which appears whole or not at all. Raises OSError."""
    from safetensors.numpy import save as encoded

    tensors = {name: np.array(a, order="C") for name, a in arrays.items()} | {LOSSES: losses}
    said = json.dumps(asdict(run), sort_keys=True)
    content = encoded(tensors, {_KEY: said, _DIGEST: _digest(tensors, said)})
    with replacing(path) as file:
        file.write(content)


def load(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray, Run]:
    """What `save` wrote: arrays by name, losses, the run. Raises MdslError, OSError."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(2, "there is no such file", str(path))
    try:
        with safe_open(path, "numpy") as file:  # pyright: ignore[reportUnknownVariableType]
            given: Any = file.metadata() or {}
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if given[_DIGEST] != _digest(arrays, given[_KEY]):
            raise ValueError("its numbers are not those that were written")
        run, losses = Run(**json.loads(given[_KEY])), arrays.pop(LOSSES)
        if type(run.step) is not int or run.step < 0 or losses.ndim != 1 or losses.dtype != np.float32:
            raise ValueError("it does not say how far the run is, or what its losses were")
        return arrays, losses, run
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MdslError(f"{path}: error: not a checkpoint of a training: {error}") from None


def _digest(arrays: Mapping[str, np.ndarray], said: str) -> str:
    """Of all that a checkpoint holds: a disk may have changed it."""
    found = hashlib.sha256(said.encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def check_arrays(path: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Raises MdslError unless each array that is wanted is there, with this shape and type: a digest is no signature."""
    for name, array in wanted.items():
        if name not in found:
            raise MdslError(f"{path}: error: the checkpoint lacks '{name}'")
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            given, own = (f"{a.dtype} of shape {a.shape}" for a in (found[name], array))
            raise MdslError(f"{path}: error: the checkpoint has '{name}' as {given}, the run as {own}")


def check_same(path: Path, found: Run, wanted: Run) -> None:
    """Raises MdslError for a checkpoint of a run with other settings."""
    for name, what in (
        ("seed", "seed"),
        ("batch", "batch"),
        ("program", "network, loss or optimiser"),
        ("data", "data"),
        ("processes", "number of processes"),
    ):
        if getattr(found, name) != getattr(wanted, name):
            shown = (
                f" ({getattr(found, name)}, not {getattr(wanted, name)})"
                if name not in ("program", "data")
                else ""
            )
            raise MdslError(f"{path}: error: the checkpoint is of a run with another {what}{shown}")
