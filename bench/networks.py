"""Whole networks beside other runtimes: time of a call, of loading, of compiling, and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mdsl
from bench.comparing import against, best_of, one
from bench.figure import Figure
from bench.fresh import First, compile_times, first_results
from bench.matmul import matmul
from bench.regret import regrets, tuning
from bench.table import BEST, NETWORKS, Network, of_section, written
from bench.timing import interleave, ratio
from bench.training import TRAINING
from mdsl.benchmarking.ablation import ablation
from mdsl.benchmarking.measure import buffers
from mdsl.benchmarking.peak import read_loop
from mdsl.benchmarking.profile import profile_layers
from mdsl.benchmarking.versus import adapters
from mdsl.compiler.entry import random_arrays
from mdsl.compiler.settings import DEFAULT
from mdsl.runtime.executable import VmExecutable

Section = Callable[[], Iterator[Figure]]

RESNET, RESNET64, KERAS28 = (NETWORKS[name] for name in ("resnet", "resnet64", "keras28"))


def times(name: str) -> Section:
    """What measures the time of the networks of a section on one thread and on two."""

    def measure() -> Iterator[Figure]:
        for network in of_section(name):
            yield from compared(network)

    return measure


def compared(network: Network) -> Iterator[Figure]:
    """A network's time against the better peer's; if it is not there, that is its only figure."""
    try:
        file = network.file()
    except ModuleNotFoundError as error:
        yield Figure(network.title, float("nan"), "x", detail=str(error))
        return
    for threads, limit in enumerate(network.bounds, 1):
        found = against(file, adapters(",".join(BEST)), threads, settings=network.settings)
        figure = best_of(_on(network.title, threads), found, limit, BEST)
        if figure.kept is False:
            figure = replace(
                figure,
                detail=f"{figure.detail}; {_at_the_limit(network, threads, figure.value / found[0].median)}",
            )
        yield figure


def _at_the_limit(network: Network, threads: int, ratio: float) -> str:
    """What a missed bound leaves to gain: the roofline of the program's layers, and what it would be of the best peer's time,
    whose inverse is `ratio`."""
    executable = mdsl.compile(network.file(), threads=threads, **network.settings)
    assert isinstance(executable, VmExecutable)
    limit = profile_layers(executable, random_arrays(executable.inputs)).limit
    return f"the roofline, {1e3 * limit:.4g} ms, would be {ratio * limit:.3g} x"


def _on(title: str, threads: int) -> str:
    return f"{title}, {threads} thread{'s'[: threads - 1]}"


def resnet28() -> Iterator[Figure]:
    """ResNet-50 on 28 x 28 pixels of one channel: reading 94 MB of weights is what takes the time."""
    yield from times("resnet28")()
    executable = _compiled(NETWORKS["resnet28"].file())
    arrays, outputs = buffers(executable, random_arrays(executable.inputs))
    weights = sum(constant.array.nbytes for constant in executable.module.constants)
    read, nbytes = read_loop(weights)
    found = interleave({"net": lambda: executable.program.run(arrays, outputs), "read": read}, 6)
    told = f"{1e-6 * weights:.4g} MB in {1e3 * found['net'].median:.4g} ms; the read loop: {1e-9 * nbytes / found['read'].median:.4g} GB/s"
    share = 100 * weights / nbytes * ratio(found["read"], found["net"])
    yield Figure("ResNet-50 28x28x1, of the read bandwidth, 1 thread", share, "%", "at least", 95, told)


def half() -> Iterator[Figure]:
    """Networks in f16, also beside themselves in f32."""
    for network in of_section("half"):
        yield from compared(network)
        assert network.single is not None
        for threads in (1, 2):
            calls = {}
            for kind, file in (("f16", network.file()), ("f32", written(network.single))):
                executable = mdsl.compile(file, threads=threads)
                assert isinstance(executable, VmExecutable)
                arrays, outputs = buffers(executable, random_arrays(executable.inputs))
                calls[kind] = lambda e=executable, a=arrays, o=outputs: e.program.run(a, o)
            found = interleave(calls, 3)
            told = "; ".join(f"{kind} {1e3 * samples.median:.4g} ms" for kind, samples in found.items())
            name = f"{_on(network.title, threads)}, against its own f32"
            yield Figure(name, ratio(found["f16"], found["f32"]), "x", "at most", 1.0, told)


def roofline() -> Iterator[Figure]:
    """How near ResNet-50 comes to what the processor can do."""
    for network in of_section("resnet"):
        executable = mdsl.compile(network.file(), **network.settings)
        assert isinstance(executable, VmExecutable)
        found = profile_layers(executable, random_arrays(executable.inputs), mdsl.parse(network.file()))
        roof, call = found.roofline, found.call.median
        told = (
            f"{1e-9 * roof.flops:.4g} GFLOP/s, {1e-9 * roof.bandwidth:.4g} GB/s; {1e3 * call:.4g} ms a call"
        )
        yield Figure(f"{network.title}, of the roofline", 100 * found.limit / call, "%", detail=told)


def resnet64() -> Iterator[Figure]:
    """ResNet-50 at 64 x 64 beside IREE, whose bytecode VM takes seconds."""
    found = against(RESNET64.file(), adapters("iree"), 1)
    yield best_of(RESNET64.title, found, 0.18, ["iree"])
    found = against(RESNET64.file(), adapters("iree-vmvx"), 1, rounds=3)
    yield best_of(RESNET64.title, found, 0.001, ["iree-vmvx"])


def keras() -> Iterator[Figure]:
    """ResNet-50 at 28 x 28 beside TensorFlow, whose ResNet50 takes images from 32 x 32 on."""
    for threads in (1, 2):
        found = against(KERAS28.file(), {"keras": "bench.keras_resnet"}, threads)
        (other,) = found[1:]
        value = 1 / other.ratio if other.ratio else float("nan")
        told = "; ".join(one(replace(c, error=None)) for c in found)
        name = _on(f"{KERAS28.title}, against Keras's at 32x32", threads)
        yield Figure(name, value, "x", "at most", 0.40, told)


def busy() -> Iterator[Figure]:
    """Two threads beside a process that keeps one of the processors busy."""
    for name in ("mobile", "encoder"):
        with _spinning():
            found = against(NETWORKS[name].file(), adapters("onnxruntime"), 2, rounds=10)
        yield best_of(f"{NETWORKS[name].title}, 2 threads, one processor busy", found, 1.2, ["onnxruntime"])


@contextmanager
def _spinning() -> Generator[None, None, None]:
    """A process that keeps the last processor busy, which all that is measured may use."""
    code = "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def peers() -> Iterator[Figure]:
    """Every peer on ResNet-50 at 224 x 224, one thread, for information."""
    own = {name: f"bench.peers.{name}" for name in ("torch", "torch_eager", "tensorflow", "jax")}
    known = adapters("onnxruntime,openvino,iree,tvm")
    for other in against(RESNET.file(), {**known, **own}, 1, rounds=5)[1:]:
        if other.ratio is not None:
            title = f"{RESNET.title}, {other.name}'s time against mdsl's"
            yield Figure(title, other.ratio, "x", detail=one(other))


def steps() -> Iterator[Figure]:
    """The paper's table, on ResNet-50 at 224 x 224."""
    module = mdsl.parse(RESNET.file())
    arrays = random_arrays(_compiled(RESNET.file()).inputs)
    for row in ablation(module, arrays, 1000, 1, DEFAULT):
        counts = (
            ""
            if row.instructions is None
            else f"{row.instructions:,} instructions, {row.dispatches:,} dispatches"
        )
        yield Figure(f"{RESNET.title}, {row.name}", 1e3 * row.timing.median, "ms", detail=counts)


def compiling() -> Iterator[Figure]:
    """`mdsl compile resnet50.onnx` in a new process, without and with the cache, beside iree-compile."""
    cold, warm, other = compile_times(RESNET.file())
    told = f"mdsl {cold:.3g} s cold, {warm:.3g} s warm; iree-compile {other:.3g} s"
    for cache, seconds, limit in (("empty", cold, 0.40), ("warm", warm, 0.10)):
        name = f"compile ResNet-50, {cache} cache, against iree-compile"
        yield Figure(name, seconds / other, "x", "at most", limit, told)


def loading() -> Iterator[Figure]:
    """What was compiled before, to the first result, in processes of their own, beside onnxruntime: from a `.mbc` file, and
    from the model's file, which the cache knows."""
    for network in NETWORKS.values():
        if network.load is None:
            continue
        file = network.file()
        compiled = str(Path(file).with_suffix(".mbc"))
        _compiled(file).save(compiled)
        for source, program in (("cache", file), (".mbc", compiled)):
            ours, theirs = first_results(program, file)
            yield from _first(f"{network.title} from {source}", ours, theirs, network.load)


def _first(title: str, ours: First, theirs: First, limit: float) -> Iterator[Figure]:
    for what, mine, other in (
        ("load + first result", ours.load, theirs.load),
        ("the same with importing the library", ours.whole, theirs.whole),
        ("the same in processor time", ours.busy, theirs.busy),
    ):
        told = f"mdsl {1e3 * mine:.4g} ms, onnxruntime {1e3 * other:.4g} ms"
        yield Figure(f"{title}, {what}", mine / other, "x", "at most", limit, told)


def memory() -> Iterator[Figure]:
    """The peak memory of processes that load what was compiled before and call it ten times."""
    for network in NETWORKS.values():
        if network.memory is None:
            continue
        try:
            file = network.file()
        except ModuleNotFoundError as error:
            yield Figure(f"{network.title}, peak memory", float("nan"), "x", detail=str(error))
            continue
        _compiled(file)
        ours, theirs = first_results(file, file, calls=10)
        told = f"mdsl {1e-6 * ours.memory:.4g} MB, onnxruntime {1e-6 * theirs.memory:.4g} MB"
        name = f"{network.title}, peak memory, against onnxruntime"
        yield Figure(name, ours.memory / theirs.memory, "x", "at most", network.memory, told)


def _compiled(file: str) -> VmExecutable:
    executable = mdsl.compile(file)
    assert isinstance(executable, VmExecutable)
    return executable


SECTIONS: dict[str, Section] = {
    "matmul": matmul,
    "resnet": times("resnet"),
    "resnet-roofline": roofline,
    "resnet28": resnet28,
    "resnet64": resnet64,
    "keras": keras,
    "encoder": times("encoder"),
    "mlp": times("mlp"),
    "mobile": times("mobile"),
    "mixing": times("mixing"),
    "attention": times("attention"),
    "recurrent": times("recurrent"),
    "resize": times("resize"),
    "half": half,
    "detectors": times("detectors"),
    "busy": busy,
    "memory": memory,
    "load": loading,
    "compile": compiling,
    "regret": regrets,
    "tune": tuning,
    "ablation": steps,
    **TRAINING,
    "peers": peers,
}
