"""This checkout beside an earlier commit: `python -m bench.commits REV [NETWORK ...]` tells how much slower each network, or
training step, has become (1.02: by 2 %).

Each checkout has a process of its own; they run in turn, round after round, so that a change of the machine's speed
meets both alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.table import NETWORKS
from bench.training import STEPS

ROOT = Path(__file__).parents[1]

_WORKER = """
import json, sys, time
import numpy as np
import mdsl

def network(file, threads, settings):
    run = mdsl.compile(file, threads=threads, **settings)
    generator = np.random.default_rng(0)
    inputs = [
        generator.integers(0, 10, s.shape) if s.dtype == "i64"
        else generator.standard_normal(s.shape).astype(np.float16 if s.dtype == "f16" else np.float32)
        for s in run.inputs
    ]
    return lambda: run(*inputs)

def step(file, threads, settings):
    from bench.steps.mdsl import prepare
    from bench.training import batch_of
    return prepare(file, batch_of(file), threads, settings).call

call = None
for line in sys.stdin:
    task = json.loads(line)
    if "file" in task:
        start = time.perf_counter()
        call = {"network": network, "step": step}[task["kind"]](task["file"], task["threads"], task["settings"])
        seconds = time.perf_counter() - start
        call()
    else:
        call()
        times = []
        end = time.perf_counter() + task["seconds"]
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        seconds = sorted(times)[len(times) // 2]
    print(json.dumps(seconds), flush=True)
"""


_KNOWN = {**dict.fromkeys(NETWORKS, "network"), **{f"training-{name}": "step" for name in STEPS}}
"""What can be measured: networks, and steps as `bench.training` takes them."""


def main(
    revision: Annotated[str, typer.Argument(help="The commit to compare with.")],
    networks: Annotated[
        list[str] | None,
        typer.Argument(help=f"Some of: {', '.join(_KNOWN)}. Default: all networks, without training steps."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of a call.")] = 1,
    rounds: Annotated[int, typer.Option(help="How often each checkout has its turn.")] = 25,
) -> None:
    """How the time of networks has changed since REVISION. Nothing else should run on the machine meanwhile."""
    unknown = [name for name in networks or () if name not in _KNOWN]
    if unknown:
        raise typer.BadParameter(f"unknown network '{unknown[0]}' (networks: {', '.join(_KNOWN)})")
    table = Table("network", "before", "now", "ratio", "quartiles", "compiled", "before")
    with _checkout(revision) as before, _worker(before) as old, _worker(ROOT) as new:
        for name in networks or NETWORKS:
            try:
                task = _task(name, threads)
            except ModuleNotFoundError as error:
                table.add_row(name, str(error))
                continue
            compiled = [_ask(worker, task) for worker in (old, new)]
            pairs = [tuple(_ask(w, {"seconds": 0.1}) for w in (old, new)) for _ in range(rounds)]
            ratios = sorted(now / then for then, now in pairs)
            table.add_row(
                name,
                *(f"{1e3 * median(times):.4g} ms" for times in zip(*pairs, strict=True)),
                f"{median(ratios):.3f}",
                f"{ratios[rounds // 4]:.3f} to {ratios[3 * rounds // 4]:.3f}",
                *(f"{seconds:.2f} s" for seconds in reversed(compiled)),
            )
    Console().print(table)


def _task(name: str, threads: int) -> dict[str, Any]:
    """What a worker is to prepare. Raises ModuleNotFoundError."""
    if _KNOWN[name] == "step":
        return {
            "kind": "step",
            "file": STEPS[name.removeprefix("training-")].file(),
            "threads": threads,
            "settings": {},
        }
    network = NETWORKS[name]
    return {"kind": "network", "file": network.file(), "threads": threads, "settings": network.settings}


@contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    """The files of a commit in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="mdsl-commit-") as folder:
        files = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)
        yield Path(folder)


@contextmanager
def _worker(checkout: Path) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="mdsl-cache-") as cache:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "MDSL_CACHE_DIR": cache}
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _ask(worker: subprocess.Popen[str], task: dict[str, Any]) -> float:
    """What the worker answers to a task, in seconds."""
    assert worker.stdin is not None and worker.stdout is not None
    print(json.dumps(task), file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit("error: a checkout's process has ended")
    return float(json.loads(answer))


if __name__ == "__main__":
    typer.run(main)
