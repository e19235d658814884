"""What the figures were measured on, and with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mdsl.benchmarking.peak import measure_roofline
from mdsl.codegen.llvm_target import cpu_of
from mdsl.target.processor import cache_bytes, core_name
from mdsl.target.target import Target

PACKAGES = (
    "mdsl", "llvmlite", "numpy", "onnx", "onnxruntime", "openvino", "torch", "tensorflow-cpu", "keras", "jax",
    "iree-base-compiler", "iree-base-runtime", "apache-tvm",
)  # fmt: skip


def describe() -> dict[str, str]:
    """The machine and the versions, as pairs for a table; measures the roofline."""
    target = Target.host()
    caches = [f"L{level} {cache_bytes(level, 0) >> 10} KiB" for level in (1, 2, 3) if cache_bytes(level, 0)]
    found = {
        "processor": f"{_cpu_name()} ({_kind(target)}, {8 * target.vector_bytes}-bit vectors)",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "caches": ", ".join(caches),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    for threads in (1, 2):
        roof = measure_roofline(threads)
        name = f"measured, {threads} thread{'s'[: threads - 1]}"
        found[name] = f"{1e-9 * roof.flops:.1f} GFLOP/s (f32 FMA), {1e-9 * roof.bandwidth:.1f} GB/s read"
    found["versions"] = ", ".join(f"{name} {text}" for name in PACKAGES if (text := _version(name)))
    return found


def _kind(target: Target) -> str:
    return cpu_of(target) if target.name == "host" else f"{core_name()} taken for {target.name}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _memory() -> str:
    try:
        first = Path("/proc/meminfo").read_text().splitlines()[0]
    except OSError:
        return "unknown"
    return f"{int(first.split()[1]) / (1 << 20):.0f} GiB"
