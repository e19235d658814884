"""IREE's bytecode VM with its own micro-kernels: what mdsl sets out from."""

from __future__ import annotations

import numpy as np

from mdsl.benchmarking.peers import Prepared, iree

FLAGS = ("--iree-hal-target-backends=vmvx", "--iree-vmvx-enable-microkernels")


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    return iree.prepare(model, inputs, threads, FLAGS)
