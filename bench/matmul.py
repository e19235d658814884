"""Products of matrices: their share of the FMA peak, two threads against one, and beside OpenBLAS, torch and onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench.comparing import against, best_of, told
from bench.figure import Figure
from bench.models.mixing import matmul as model
from bench.table import written
from mdsl.benchmarking.peak import fma_loop
from mdsl.benchmarking.versus import Contender, adapters

SIZES = {
    (256, 256, 256): 80, (512, 512, 512): 92, (768, 768, 768): 92, (1024, 1024, 1024): 92, (2048, 2048, 2048): 92,
    (256, 4096, 512): 92, (96, 3072, 768): 92,
}  # fmt: skip
"""(rows, inner, columns), and the percentage of the peak to reach."""

OTHERS = ("numpy", "torch", "onnxruntime")
PEERS = {
    "numpy": "bench.peers.numpy", "torch": "bench.peers.torch", "peak": "bench.peers.peak",
    **adapters("onnxruntime"),
}  # fmt: skip
ROUNDS = 12


def matmul() -> Iterator[Figure]:
    """Every size on one thread and on two; all that is compared runs in turn, and the peak with it."""
    for shape, least in SIZES.items():
        yield from _product(shape, least)


def _product(shape: tuple[int, int, int], least: float) -> Iterator[Figure]:
    title, file = f"matmul {'x'.join(map(str, shape))}", written(partial(model, *shape))
    for threads in (1, 2):
        name = f"{title}, {threads} thread{'s'[: threads - 1]}"
        alone = {"one thread": "bench.peers.one_thread"} if threads > 1 else {}
        found = against(file, PEERS | alone, threads, ROUNDS)
        yield _share(name, found, shape, threads, least)
        runtimes = [c for c in found if c.name in ("mdsl", *OTHERS)]
        yield best_of(name, runtimes, 1.0, OTHERS)
        for one in (c for c in found if c.name in alone and c.ratio):
            yield Figure(
                f"{title}, two threads against one", one.ratio or 0.0, "x", "at least", 1.95, told(found[:1])
            )


def _share(
    name: str, found: Sequence[Contender], shape: tuple[int, int, int], threads: int, least: float
) -> Figure:
    """Of so many threads' peak."""
    rows, inner, columns = shape
    (peak,) = (c for c in found if c.name == "peak")
    operations = fma_loop()[1]
    work = 2 * rows * inner * columns / operations / threads
    value = 100 * work * peak.ratio if peak.ratio else float("nan")
    speeds = [
        f"{c.name} {100 * work * peak.ratio / c.ratio:.1f} %"
        for c in found
        if c.name in OTHERS and c.ratio and peak.ratio
    ]
    detail = f"peak of a thread {1e-9 * operations / peak.median:.4g} GFLOP/s" if peak.median else ""
    return Figure(f"{name}, of the FMA peak", value, "%", "at least", least, "; ".join([*speeds, detail]))
