"""No runtime, but the loop of FMAs that a share of the peak is measured against, on one thread."""

from __future__ import annotations

import numpy as np

from mdsl.benchmarking.peak import fma_loop
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    return Prepared(fma_loop()[0], lambda _: [], "")
