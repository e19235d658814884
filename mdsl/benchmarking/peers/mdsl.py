"""mdsl itself, as `mdsl run` has it: the imported model compiled for the VM and, as the peers' file, for the sizes
that the inputs have; outputs written in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int, settings: Mapping[str, Any]) -> Prepared:
    import mdsl
    from mdsl.benchmarking.measure import buffers
    from mdsl.runtime.executable import VmExecutable

    executable = mdsl.compile(model, threads=threads, **settings)
    arrays = list(inputs.values())
    executable, arrays = executable.fitting(arrays)
    if not isinstance(executable, VmExecutable):
        return Prepared(lambda: executable(*arrays), _arrays, mdsl.__version__, executable.engine)
    given, outputs = buffers(executable, arrays)

    def call() -> list[np.ndarray]:
        executable.program.run(given, outputs)
        return outputs

    return Prepared(call, _arrays, mdsl.__version__, executable.engine)


def _arrays(found: Any) -> list[np.ndarray]:
    return [x.copy() for x in (found if isinstance(found, (list, tuple)) else [found])]
