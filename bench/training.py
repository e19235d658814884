"""Training steps beside other frameworks: time of a step, peak memory, time to compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import ModelProto

from bench.comparing import best_of
from bench.figure import Figure
from bench.models.encoder import encoder
from bench.models.light import light
from bench.models.training import cnn, mlp, with_loss
from bench.resident import peak_bytes
from bench.steps.mdsl import prepare as step_of
from bench.table import written
from bench.timing import interleave, ratio
from mdsl.benchmarking.peers import environment
from mdsl.benchmarking.versus import compare
from mdsl.target.target import Target

PEERS = ("torch_eager", "torch", "tensorflow", "jax")


@dataclass(frozen=True)
class Step:
    """A network whose training step is measured: its name, what builds it, what its time may be of the best peer's, and how
    many rounds are timed."""

    title: str
    build: Callable[[], ModelProto]
    bound: float
    rounds: int

    def file(self) -> str:
        return written(self.model)

    def model(self) -> ModelProto:
        return with_loss(self.build)


STEPS = {
    "mlp": Step("MLP 784-512-512-10, batch 128", mlp, 0.60, 15),
    "cnn": Step("MNIST CNN, batch 64", cnn, 0.40, 15),
    "encoder": Step("transformer encoder, batch 8", partial(encoder, batch=8), 0.75, 5),
    "resnet28": Step(
        "ResNet-50 28x28x1, batch 32", partial(light, "resnet50", 28, channels=1, batch=32), 0.60, 5
    ),
    "resnet": Step("ResNet-50 224x224, batch 4", partial(light, "resnet50", batch=4), 0.75, 3),
}

RESNET = STEPS["resnet28"]


def times(step: Step) -> Iterator[Figure]:
    """A step of SGD with momentum, on one thread and on two."""
    modules = {name: f"bench.steps.{name}" for name in PEERS}
    file = step.file()
    arrays = list(batch_of(file).values())
    for threads in (1, 2):
        found = compare(file, arrays, modules, threads, step.rounds, {}, own="bench.steps.mdsl")
        title = f"{step.title}, {threads} thread{'s'[: threads - 1]}"
        yield best_of(title, found, step.bound, PEERS)


def alone() -> Iterator[Figure]:
    """Compilation and peak memory: each framework in a process of its own, that takes three steps; mdsl with an empty cache, and
    with what that has left in it."""
    file = RESNET.file()
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (_taken("mdsl", file, cache) for _ in range(2))
    assert cold is not None and warm is not None
    yield Figure(f"{RESNET.title}, compiling, empty cache", cold[0], "s", "at most", 15)
    others = {name: found for name in PEERS if (found := _taken(name, file, "")) is not None}
    if others:
        best = min(others, key=lambda name: others[name][1])
        listed = "; ".join(f"{name} {1e-6 * peak:.4g} MB" for name, (_, peak) in others.items())
        detail = f"mdsl {1e-6 * warm[1]:.4g} MB; {listed}"
        title = f"{RESNET.title}, peak memory, against {best}"
        yield Figure(title, warm[1] / others[best][1], "x", "at most", 0.70, detail)


def _taken(name: str, file: str, cache: str) -> tuple[float, int] | None:
    """Seconds to prepare the step, and bytes in memory at most; None if the framework is not there or fails."""
    command = [sys.executable, "-m", "bench.training", name, file]
    variables = {**os.environ, **environment(1), **({"MDSL_CACHE_DIR": cache} if cache else {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def unrolling() -> Iterator[Figure]:
    """Four micro-kernels in an instruction against one, where the paper found training no faster: with the tiles that the cost model
    chooses, and with small ones, as the paper has them: four rows of a vector, too few accumulators to keep multiply-adds busy."""
    small = f"pack,fuse,tile{{sizes=[4,{Target.host().vector_bytes // 4}]}}"
    for step, tiles, limit in ((RESNET, None, 1.0), (STEPS["mlp"], small, 1 / 1.5)):
        file = step.file()
        single, unrolled = (
            step_of(file, batch_of(file), 1, {"pipeline": tiles, "unroll_dispatch": factor}).call
            for factor in (None, 4)
        )
        found = interleave({"single": single, "unrolled": unrolled})
        name = f"{step.title}{', small tiles' if tiles else ''}, unroll-dispatch=4 against single dispatch"
        told = "; ".join(f"{kind} {1e3 * samples.median:.4g} ms" for kind, samples in found.items())
        yield Figure(name, ratio(found["unrolled"], found["single"]), "x", "at most", limit, told)


TRAINING: dict[str, Callable[[], Iterator[Figure]]] = {
    **{f"training-{name}": partial(times, step) for name, step in STEPS.items()},
    "training-memory": alone,
    "training-unrolling": unrolling,
}


def batch_of(file: str) -> dict[str, np.ndarray]:
    """Random inputs of a graph that ends in a loss, and labels that are all classes of it."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for value in onnx.load(file).graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        made = (
            random.integers(0, 10, shape)
            if value.name == "labels"
            else random.standard_normal(shape, np.float32)
        )
        found[value.name] = made
    return found


def _report(name: str, file: str) -> None:
    """What a process of `_taken` prints."""
    import time
    from importlib import import_module

    start = time.perf_counter()
    prepared = import_module(f"bench.steps.{name}").prepare(
        file, batch_of(file), 1, *([{}] if name == "mdsl" else [])
    )
    seconds = time.perf_counter() - start
    for _ in range(3):
        prepared.arrays(prepared.call())
    print(json.dumps([seconds, peak_bytes()]))


if __name__ == "__main__":
    _report(*sys.argv[1:])
