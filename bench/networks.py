"""Whole networks beside other runtimes: time of a call, of loading, of compiling, and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mdsl
from bench import models, onnx_mlp
from bench.figure import Figure
from bench.fresh import compile_times, first_results, peak_memories
from bench.timing import interleave, ratio
from mdsl.benchmarking.ablation import ablation
from mdsl.benchmarking.measure import empty_outputs
from mdsl.benchmarking.peak import read_loop
from mdsl.benchmarking.profile import profile_layers
from mdsl.benchmarking.versus import Contender, adapters, compare
from mdsl.compiler.entry import random_arrays
from mdsl.compiler.settings import DEFAULT
from mdsl.runtime.executable import VmExecutable

BEST = ("onnxruntime", "openvino")
"""The two that a network's time is compared with the better of."""

_folder = tempfile.TemporaryDirectory(prefix="mdsl-bench-")


@cache
def model(name: str, size: int | None = None, channels: int = 3) -> str:
    """The path of a network as an .onnx file, written once a run."""
    path = Path(_folder.name) / f"{name}-{size or 'default'}-{channels}.onnx"
    if name == "mlp":
        path.write_bytes(onnx_mlp.model())
    else:
        path.write_bytes(models.build(name, size, channels=channels).SerializeToString())
    return str(path)


def against(
    file: str,
    peers: dict[str, str],
    threads: int,
    rounds: int = 20,
    settings: dict[str, Any] | None = None,
) -> list[Contender]:
    """The contenders, mdsl first."""
    arrays = random_arrays(mdsl.compile(file).inputs)  # type: ignore[arg-type]
    return compare(file, arrays, peers, threads, rounds, settings or {})


def best_of(
    title: str, found: Sequence[Contender], limit: float | None, names: Sequence[str] = BEST
) -> Figure:
    """mdsl's time divided by the better one's of the peers `names`."""
    ratios = [c.ratio for c in found if c.name in names and c.ratio is not None]
    value = 1 / min(ratios) if ratios else float("nan")
    against = " or ".join(names)
    return Figure(f"{title}, against {against}", value, "x", "at most", limit, _told(found))


def _told(found: Sequence[Contender]) -> str:
    return "; ".join(_one(c) for c in found)


def _one(c: Contender) -> str:
    if c.failed:
        return f"{c.name}: {c.failed}"
    text = f"{c.name} {1e3 * c.median:.4g} ms ({1e3 * c.low:.4g} to {1e3 * c.high:.4g})"
    return text if c.agrees else f"{text}, DISAGREES: error {c.error:.1e}"


def _compared(
    title: str,
    name: str,
    limit: float,
    size: int | None = None,
    channels: int = 3,
    names: Sequence[str] = BEST,
    settings: dict[str, Any] | None = None,
) -> Iterator[Figure]:
    for threads in (1, 2):
        found = against(model(name, size, channels), adapters(",".join(names)), threads, settings=settings)
        yield best_of(f"{title}, {threads} thread{'s'[: threads - 1]}", found, limit, names)


def resnet() -> Iterator[Figure]:
    """ResNet-50 at 224 x 224, batch 1; also without Winograd's filtering."""
    yield from _compared("ResNet-50 224x224", "resnet50", 0.80)
    yield from _compared("ResNet-50 224x224, --no-winograd", "resnet50", 0.95, settings={"winograd": False})


def resnet_roofline() -> Iterator[Figure]:
    """How near ResNet-50 comes to what the processor can do."""
    file = model("resnet50")
    executable = _compiled(file)
    found = profile_layers(executable, random_arrays(executable.inputs), mdsl.parse(file))
    roof = found.roofline
    told = f"{1e-9 * roof.flops:.4g} GFLOP/s, {1e-9 * roof.bandwidth:.4g} GB/s; {1e3 * found.call.median:.4g} ms a call"
    yield Figure(
        "ResNet-50 224x224, of the roofline", 100 * found.limit / found.call.median, "%", detail=told
    )


def resnet28() -> Iterator[Figure]:
    """ResNet-50 on 28 x 28 pixels of one channel: reading 94 MB of weights is what takes the time."""
    yield from _compared("ResNet-50 28x28x1", "resnet50", 1.0, 28, 1)
    executable = _compiled(model("resnet50", 28, 1))
    arrays, outputs = random_arrays(executable.inputs), empty_outputs(executable)
    weights = sum(constant.array.nbytes for constant in executable.module.constants)
    read, nbytes = read_loop(weights)
    times = interleave({"net": lambda: executable.program.run(arrays, outputs), "read": read}, 6)
    told = f"{1e-6 * weights:.4g} MB in {1e3 * times['net'].median:.4g} ms; the read loop: {1e-9 * nbytes / times['read'].median:.4g} GB/s"
    share = 100 * weights / nbytes * ratio(times["read"], times["net"])
    yield Figure("ResNet-50 28x28x1, of the read bandwidth, 1 thread", share, "%", "at least", 95, told)


def resnet64() -> Iterator[Figure]:
    """ResNet-50 at 64 x 64 beside IREE, whose bytecode VM takes seconds."""
    found = against(model("resnet50", 64), adapters("iree"), 1)
    yield best_of("ResNet-50 64x64", found, 0.18, ["iree"])
    found = against(model("resnet50", 64), adapters("iree-vmvx"), 1, rounds=3)
    yield best_of("ResNet-50 64x64", found, 0.001, ["iree-vmvx"])


def keras() -> Iterator[Figure]:
    """ResNet-50 at 28 x 28 beside TensorFlow, whose ResNet50 takes images from 32 x 32 on."""
    for threads in (1, 2):
        found = against(model("resnet50", 28), {"keras": "bench.keras_resnet"}, threads)
        (other,) = found[1:]
        value = 1 / other.ratio if other.ratio else float("nan")
        told = "; ".join(_one(replace(c, error=None)) for c in found)
        name = f"ResNet-50 28x28, against Keras's at 32x32, {threads} thread{'s'[: threads - 1]}"
        yield Figure(name, value, "x", "at most", 0.40, told)


def encoder() -> Iterator[Figure]:
    """A transformer encoder: 6 layers, width 384, 12 heads, sequence 128."""
    yield from _compared("transformer encoder", "encoder", 0.95)


def mlp() -> Iterator[Figure]:
    """The MNIST MLP 784-512-512-10, batch 1."""
    yield from _compared("MLP 784-512-512-10", "mlp", 1.0, names=["onnxruntime"])


def mobile() -> Iterator[Figure]:
    """Smaller and deeper networks at 224 x 224."""
    yield from _compared("MobileNetV2 224x224", "mobilenet_v2", 1.0)
    yield from _compared("SqueezeNet 224x224", "squeezenet", 1.0)
    yield from _compared("DenseNet-121 224x224", "densenet121", 1.0)


def peers() -> Iterator[Figure]:
    """Every peer on ResNet-50 at 224 x 224, one thread, for information."""
    own = {name: f"bench.peers.{name}" for name in ("torch", "torch_eager", "tensorflow", "jax")}
    known = adapters("onnxruntime,openvino,iree,tvm")
    for other in against(model("resnet50"), {**known, **own}, 1, rounds=5)[1:]:
        if other.ratio is not None:
            yield Figure(
                f"ResNet-50 224x224, {other.name}'s time against mdsl's", other.ratio, "x", detail=_one(other)
            )


def steps() -> Iterator[Figure]:
    """The paper's table, on ResNet-50 at 224 x 224."""
    module = mdsl.parse(model("resnet50"))
    arrays = random_arrays(_compiled(model("resnet50")).inputs)
    for row in ablation(module, arrays, 1000, 1, DEFAULT):
        counts = (
            ""
            if row.instructions is None
            else f"{row.instructions:,} instructions, {row.dispatches:,} dispatches"
        )
        yield Figure(f"ResNet-50 224x224, {row.name}", 1e3 * row.timing.median, "ms", detail=counts)


def compiling() -> Iterator[Figure]:
    """`mdsl compile resnet50.onnx` in a new process, without and with the cache, beside iree-compile."""
    cold, warm, other = compile_times(model("resnet50"))
    told = f"mdsl {cold:.3g} s cold, {warm:.3g} s warm; iree-compile {other:.3g} s"
    yield Figure(
        "compile ResNet-50, empty cache, against iree-compile", cold / other, "x", "at most", 1.0, told
    )
    yield Figure(
        "compile ResNet-50, warm cache, against iree-compile", warm / other, "x", "at most", 0.25, told
    )


def loading() -> Iterator[Figure]:
    """A compiled ResNet-50 from its file to the first result, and the memory of the process, beside onnxruntime."""
    file = model("resnet50")
    compiled = str(Path(file).with_suffix(".mbc"))
    _compiled(file).save(compiled)
    ours, theirs = first_results(compiled, file)
    told = f"mdsl {1e3 * ours.load:.4g} ms, onnxruntime {1e3 * theirs.load:.4g} ms"
    yield Figure(
        "ResNet-50, load + first result, against onnxruntime",
        ours.load / theirs.load,
        "x",
        "at most",
        1.0,
        told,
    )
    whole, other = ours.load + ours.imports, theirs.load + theirs.imports
    told = f"mdsl {1e3 * whole:.4g} ms, onnxruntime {1e3 * other:.4g} ms"
    yield Figure("ResNet-50, the same with importing the library", whole / other, "x", detail=told)
    used, used_by_other = peak_memories(compiled, file)
    told = f"mdsl {1e-6 * used:.4g} MB, onnxruntime {1e-6 * used_by_other:.4g} MB"
    yield Figure(
        "ResNet-50, peak memory, against onnxruntime", used / used_by_other, "x", "at most", 1.0, told
    )


def _compiled(file: str) -> VmExecutable:
    executable = mdsl.compile(file)
    assert isinstance(executable, VmExecutable)
    return executable


NETWORKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "resnet": resnet,
    "resnet-roofline": resnet_roofline,
    "resnet28": resnet28,
    "resnet64": resnet64,
    "keras": keras,
    "encoder": encoder,
    "mlp": mlp,
    "mobile": mobile,
    "compile": compiling,
    "load": loading,
    "ablation": steps,
    "peers": peers,
}
