"""IREE's LLVM backend: iree-import-onnx, iree-compile for the host's CPU, iree.runtime."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mdsl.benchmarking.peers import Prepared, Refused
from mdsl.target.target import ITSELF, Target

_OPSET = 17
"""IREE's importer is made for this opset and later; older models are converted first."""


def prepare(
    model: str,
    inputs: dict[str, np.ndarray],
    threads: int,
    flags: Sequence[str] | None = None,
) -> Prepared:
    version: Any = import_module("iree.compiler.version")
    runtime: Any = import_module("iree.runtime")

    flags = flags or ("--iree-hal-target-backends=llvm-cpu", f"--iree-llvmcpu-target-cpu={cpu()}")
    with tempfile.TemporaryDirectory() as folder:
        module = _compile(model, Path(folder), flags)
    if threads > 1:
        runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
    config = runtime.Config("local-task" if threads > 1 else "local-sync")
    context = runtime.SystemContext(config=config)
    loaded = runtime.VmModule.copy_buffer(context.instance, module)
    context.add_vm_module(loaded)
    function: Any = getattr(context.modules, loaded.name)
    entry = function[
        next(name for name in loaded.function_names if not name.startswith("__") and "$" not in name)
    ]
    arrays = [runtime.asdevicearray(config.device, array) for array in inputs.values()]

    def to_numpy(found: Any) -> list[np.ndarray]:
        return [np.asarray(x.to_host()) for x in (found if isinstance(found, Sequence) else [found])]

    return Prepared(lambda: entry(*arrays), to_numpy, version.VERSION, flags[0].rpartition("=")[2])


def cpu() -> str:
    """The processor to compile for, as IREE takes it."""
    target = Target.host()
    return "host" if target.cpu == ITSELF else target.cpu


def _compile(model: str, folder: Path, flags: Sequence[str]) -> bytes:
    """The model's `.vmfb`. Raises Refused with what the tools say."""
    result = folder / "model.vmfb"
    _run(["iree-compile", imported(model, folder), "-o", result, *flags])
    return result.read_bytes()


def imported(model: str, folder: Path) -> Path:
    """The model as iree-compile takes it, in `folder`. Raises Refused."""
    text = folder / "model.mlir"
    _run(["iree-import-onnx", _converted(model, folder), "-o", text])
    return text


def _converted(model: str, folder: Path) -> Path:
    """The model, or a copy that is converted to a newer opset."""
    import onnx
    from onnx import version_converter

    proto = onnx.load(model)
    if any(used.version >= _OPSET for used in proto.opset_import if used.domain in ("", "ai.onnx")):
        return Path(model)
    proto.ir_version = max(proto.ir_version, 8)  # older ones want every weight to be an input as well
    copy = folder / "model.onnx"
    onnx.save(version_converter.convert_version(proto, _OPSET), copy)
    return copy


def _run(command: Sequence[object]) -> None:
    """Runs a program that the packages install beside Python. Raises ImportError, Refused."""
    name, *arguments = map(str, command)
    program = Path(sys.executable).parent / name
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ImportError(f"no {name}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error:" in line] or lines[-1:]
        raise Refused(f"{name}: {errors[0].rpartition('error:')[2].strip() if errors else 'failed'}")
