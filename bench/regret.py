"""What the cost model's tiles give away on each network, and what `tune` takes and gains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import mdsl
from bench.figure import Figure
from bench.table import NETWORKS
from bench.timing import interleave, ratio
from mdsl.benchmarking.regret import Tiling, regret
from mdsl.compiler.entry import random_arrays
from mdsl.compiler.settings import DEFAULT
from mdsl.runtime.executable import VmExecutable


def regrets() -> Iterator[Figure]:
    """Each network's contractions in the model's tiles against the fastest of a dozen."""
    for network in NETWORKS.values():
        try:
            file = network.file()
        except ModuleNotFoundError as error:
            yield Figure(f"{network.title}, regret", float("nan"), "%", detail=str(error))
            continue
        found = regret(mdsl.parse(file), replace(DEFAULT, **network.settings))
        told = "; ".join(_told(tiling) for tiling in found.worst() if tiling.given_away > 0)
        yield Figure(f"{network.title}, regret", 100 * found.share, "%", "at most", 2, told)


def _told(found: Tiling) -> str:
    chosen, best = ("x".join(map(str, tile)) for tile in (found.chosen, found.best))
    return f"{found.shape}: {chosen} {1e6 * found.seconds:.4g} us, {best} {1e6 * found.least:.4g} us"


def tuning() -> Iterator[Figure]:
    """How long tuning takes, from an empty cache of measurements, and what it changes."""
    file = NETWORKS["resnet"].file()
    plain = mdsl.compile(file)
    start = time.perf_counter()
    tuned = mdsl.compile(file, tune=True)
    yield Figure("ResNet-50 224x224, compiled with --tune", time.perf_counter() - start, "s", "at most", 20)
    assert isinstance(tuned, VmExecutable)
    arrays = random_arrays(tuned.inputs)
    times = interleave({"plain": lambda: plain(*arrays), "tuned": lambda: tuned(*arrays)}, 4)
    yield Figure(
        "the same, its time against the model's tiles",
        ratio(times["tuned"], times["plain"]),
        "x",
        "at most",
        1,
    )
