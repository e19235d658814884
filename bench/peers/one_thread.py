"""mdsl on one thread, however many the others have."""

from __future__ import annotations

import numpy as np

from mdsl.benchmarking.peers import Prepared
from mdsl.benchmarking.peers import mdsl as own


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    return own.prepare(model, inputs, 1, {})
