"""Processes that train together: each has its share of every batch, and they average what comes of it, by MPI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from mdsl.errors import MdslError

T = TypeVar("T")


class Fault(MdslError):
    """An error that all processes raise at once, so that none waits for another."""


class Processes:
    """A communicator of mpi4py, or none for a process that is alone. `total`, `average` and `gather` are collective: every process
    calls them, in the same order."""

    def __init__(self, comm: Any = None) -> None:
        self.comm = comm
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.count: int = 1 if comm is None else comm.Get_size()

    def share(self, array: np.ndarray) -> np.ndarray:
        """The samples of this process, of those of all."""
        size = len(array) // self.count
        return array[self.rank * size : (self.rank + 1) * size]

    def total(self, array: np.ndarray) -> None:
        """Makes the array, of f32 or f64, the sum over all processes; they get the same bits."""
        if self.comm is not None:
            from mpi4py import MPI  # pyright: ignore

            self.comm.Allreduce(MPI.IN_PLACE, array)

    def average(self, arrays: Iterable[np.ndarray]) -> None:
        """Makes each array, of f32 or f64, the mean over all processes; they get the same bits."""
        for array in arrays:
            self.total(array)
            array /= self.count

    def gather(self, value: T) -> list[T]:
        """What each process gives, by rank."""
        return [value] if self.comm is None else self.comm.allgather(value)


def world() -> Processes:
    """All processes that mpiexec has started. Raises MdslError without mpi4py."""
    try:
        from mpi4py import MPI  # pyright: ignore
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where it finds no MPI library
        raise MdslError(
            f"error: --mpi needs mpi4py and an MPI library: pip install 'mdsl[mpi]' ({error})"
        ) from None
    return Processes(MPI.COMM_WORLD)
