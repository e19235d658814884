"""mdsl beside other runtimes: the same model, inputs and number of threads, in turn, round after round.

Each runtime has a process of its own, so that their thread pools, settings and libraries do not meet. Only one
runs at a time; between turns there is a pause in which the threads of the last one go to sleep.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import PEERS, environment
from mdsl.benchmarking.peers import __name__ as PACKAGE
from mdsl.benchmarking.peers.worker import Failed, Ready, Task, Turn, serve
from mdsl.compiler.settings import Settings
from mdsl.errors import MdslError, nearest

TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Of the output's scale (its largest absolute value): beyond it, a peer is said to disagree with mdsl. The latter is for
outputs of 16 bits."""

UNSTEADY = 1.3
"""How far apart the quartiles of the rounds' ratios may be, as a factor, on a machine that has nothing else to do."""

PATIENCE = 900.0
"""Seconds that a runtime may take to load the model, or to time some calls."""

_OWN = f"{PACKAGE}.mdsl"
_PAUSE = 0.02
"""Seconds between turns: thread pools spin for some milliseconds before they sleep."""
_TURN = Turn(seconds=0.05, warm=0.02)


@dataclass(frozen=True)
class Contender:
    """A runtime's part in the comparison. Times are seconds: of a call (median, and the deciles that hold four
    fifths of the calls), of loading the model and of the first call. `ratio` is the median over rounds of its time
    divided by mdsl's, `ratios` are the quartiles that hold half of the rounds' ratios; `error` is how far its outputs are from mdsl's, relative to their scale.
    """

    name: str
    version: str = ""
    how: str = ""
    failed: str = ""
    calls: int = 0
    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    ratio: float | None = None
    error: float | None = None
    load: float = 0.0
    first_call: float = 0.0
    ratios: tuple[float, float] | None = None
    tolerance: float = TOLERANCE

    @property
    def unsteady(self) -> bool:
        """True if the rounds disagree about the ratio: something else ran on the machine."""
        return self.ratios is not None and self.ratios[1] > UNSTEADY * self.ratios[0]

    @property
    def agrees(self) -> bool:
        return self.error is None or self.error <= self.tolerance


def adapters(text: str) -> dict[str, str]:
    """The adapters' modules of a list like "onnxruntime,bench.peers.torch", by name; "all" are all peers. A name with
    a dot is a module's own, which may also lie below the current folder. Raises MdslError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return {name: _module(name) for name in (PEERS if names == ["all"] else names)}


def _module(name: str) -> str:
    if name in PEERS:
        return f"{PACKAGE}.{name.replace('-', '_')}"
    if "." not in name:
        known = f"(peers: {', '.join(PEERS)}; others by an adapter's module, as package.module)"
        raise MdslError(f"error: --vs: no peer '{name}'{nearest(name, list(PEERS))} {known}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with suppress(ImportError, ValueError):
        if find_spec(name) is not None:
            return name
    raise MdslError(f"error: --vs: no module '{name}'")


def for_peers(model: str, arrays: Sequence[np.ndarray], folder: str) -> tuple[str, dict[str, np.ndarray]]:
    """What the peers are given for mdsl's inputs `arrays`: the arrays by the names that the file's graph has for
    them, and the file itself, or a copy in `folder` whose inputs have just these shapes. Raises MdslError."""
    try:
        import onnx
    except ImportError:
        raise MdslError("error: --vs needs the package onnx: pip install mdsl[onnx]") from None
    proto = onnx.load(model, load_external_data=False)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    named = {value.name: array for value, array in zip(inputs, arrays, strict=True)}
    dims = [dim for value in inputs for dim in value.type.tensor_type.shape.dim]
    if all(dim.HasField("dim_value") for dim in dims):
        return model, named
    proto = onnx.load(model)
    for value in proto.graph.input:
        if value.name in named:
            for dim, size in zip(value.type.tensor_type.shape.dim, named[value.name].shape, strict=True):
                dim.dim_value = size
    # What follows from the inputs is inferred anew.
    del proto.graph.value_info[:]
    for dim in (dim for value in proto.graph.output for dim in value.type.tensor_type.shape.dim):
        dim.ClearField("dim_param")
    fixed = str(Path(folder) / Path(model).name)
    onnx.save(onnx.shape_inference.infer_shapes(proto), fixed)
    return fixed, named


def compare(
    model: str,
    arrays: Sequence[np.ndarray],
    peers: Mapping[str, str],
    threads: int,
    rounds: int,
    settings: Mapping[str, Any],
    show: Callable[[str], None] = lambda text: None,
    own: str = _OWN,
) -> list[Contender]:
    """mdsl first, by the adapter `own`, then each of `peers`, whose adapters' modules are given by name, on `arrays`, mdsl's inputs.
    `settings` are for `mdsl.compile`; to their target the peers are held as well, where they can be. Raises MdslError."""
    with ExitStack() as stack:
        stack.enter_context(_broken_pipes_raise())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        fixed, inputs = for_peers(model, arrays, folder)
        running: list[_Runtime] = []
        target = Settings(target=settings.get("target")).machine()
        tasks = [Task("mdsl", own, model, inputs, threads, f"{folder}/mdsl.log", dict(settings))]
        for name, module in peers.items():
            tasks.append(Task(name, module, fixed, inputs, threads, f"{folder}/{name}.log", None))
        for task in tasks:
            show(f"loading the model: {task.name}")
            limits = environment(threads, target if task.settings is None else None)
            running.append(stack.enter_context(_Runtime(task, limits)))
        for number in range(rounds):
            show(f"round {number + 1} of {rounds}")
            for runtime in running:
                if not runtime.failed:
                    time.sleep(_PAUSE)
                    runtime.take(_TURN)
        return [runtime.result(running[0]) for runtime in running]


@contextmanager
def _broken_pipes_raise() -> Generator[None, None, None]:
    """A message to a process that has died raises BrokenPipeError; the commands let SIGPIPE end them otherwise."""
    ours = hasattr(signal, "SIGPIPE") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN) if ours else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGPIPE, before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None, None, None]:
    """What a process that starts meanwhile has in its environment: libraries read it when they load."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Runtime:
    """A runtime in its process, as the comparison sees it: out of it once `failed` says why."""

    def __init__(self, task: Task, environment: Mapping[str, str] | None = None) -> None:
        self.task, self.environment = task, environment or {}
        self.ready: Ready | None = None
        self.failed = ""
        self.rounds: list[list[float]] = []

    def __enter__(self) -> _Runtime:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(other,), daemon=True)
        with _environment(self.environment):
            self.process.start()
        other.close()
        answer = self._exchange(self.task)
        if isinstance(answer, Ready):
            self.ready = answer
        elif isinstance(answer, Failed):
            self.failed = answer.reason
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join(0 if self.failed else 5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def take(self, turn: Turn) -> None:
        """Has the process time some calls."""
        seconds = self._exchange(turn)
        if seconds is not None:
            self.rounds.append(seconds)

    def _exchange(self, message: Task | Turn) -> Any:
        """The process's answer to a message; None if there is none, and `failed` says why."""
        pipe: Connection = self.pipe
        try:
            pipe.send(message)
            if pipe.poll(PATIENCE):
                return pipe.recv()
            self.failed = f"gave no answer in {PATIENCE:.0f} s"
        except (EOFError, OSError):
            self.process.join()
            self.failed = (
                f"its process ended with exit code {self.process.exitcode}{_last_line(self.task.log)}"
            )
        return None

    def result(self, mdsl: _Runtime) -> Contender:
        if self.ready is None or self.failed:
            return Contender(self.task.name, failed=self.failed)
        seconds = [s for turn in self.rounds for s in turn]
        low, high = (float(x) for x in np.percentile(seconds, [10, 90]))
        ratio = ratios = error = None
        if mdsl.ready and not mdsl.failed and mdsl is not self:
            turns = zip(self.rounds, mdsl.rounds, strict=True)
            each = [statistics.median(a) / statistics.median(b) for a, b in turns]
            lower, ratio, upper = map(float, np.percentile(each, [25, 50, 75]))
            ratios = (lower, upper)
            error = difference(self.ready.outputs, mdsl.ready.outputs)
        return Contender(
            self.task.name, self.ready.version, self.ready.how, "", len(seconds), statistics.median(seconds),
            low, high, ratio, error, self.ready.prepare, self.ready.call, ratios,
            HALF_TOLERANCE if any(x.dtype.itemsize == 2 for x in self.ready.outputs) else TOLERANCE,
        )  # fmt: skip


def _last_line(log: str) -> str:
    lines = Path(log).read_text(errors="replace").strip().splitlines() if Path(log).exists() else []
    return f": {lines[-1].strip()}" if lines else ""


def difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference of two lists of arrays, relative to the scale of each array of `wanted`; infinite
    where shapes differ or only one of two numbers is finite."""
    if [np.shape(a) for a in found] != [np.shape(b) for b in wanted]:
        return float("inf")
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.all(same | finite):
            return float("inf")
        scale = float(np.abs(b[finite]).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / scale)
    return worst
