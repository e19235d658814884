"""The profile of a program by its dispatches: how long each takes, and how long it would at the hardware's limit.

In a copy of the bytecode every dispatch has a kernel of its own (the same native code under another number), so
that the interpreter's counters, which are one pair a kernel, tell dispatches of one kernel apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdsl import api
from mdsl.analysis.places import main_ops
from mdsl.benchmarking.measure import Timing, buffers, deadline, measure
from mdsl.benchmarking.peak import Roofline, last_cache_bytes, measure_roofline
from mdsl.benchmarking.work import kernel_flops, reaches
from mdsl.bytecode.module import Instruction, Kernel, Module
from mdsl.codegen.kernels import Kernels
from mdsl.compiler.entry import random_arrays
from mdsl.compiler.settings import Settings
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.types import ShapedType
from mdsl.runtime.executable import VmExecutable
from mdsl.target.core import Core
from mdsl.target.target import Target
from mdsl.vm.program import Profile, Program


@dataclass(frozen=True)
class Layer:
    """The dispatches of one kind that one op of the source, written at `place`, became.

    `seconds` is the median over profiled calls of what the slowest worker spent in them; `flops` what they
    compute; `constants` and `activations` the bytes that they touch; `limit` the seconds that the roofline allows.
    """

    name: str
    place: str
    shape: str
    kernel: str
    calls: int
    seconds: float
    flops: int
    constants: int
    activations: int
    limit: float

    @property
    def gap(self) -> float:
        """Seconds beyond the roofline."""
        return self.seconds - self.limit


@dataclass(frozen=True)
class LayerProfile:
    """`call` is the time of calls that are not profiled; `between` the median over profiled calls of what
    dispatches leave of one, the interpreter's own: loops, fills, copies, waiting."""

    layers: list[Layer]
    call: Timing
    between: float
    roofline: Roofline
    source: str
    """Where each call reads the constants from: "memory", "the last cache", or "the cores' own caches", as all of them are large."""

    @property
    def busy(self) -> float:
        return sum(layer.seconds for layer in self.layers)

    @property
    def total(self) -> float:
        """The parts together: about the time of a call, if measuring disturbs it little."""
        return self.busy + self.between

    @property
    def limit(self) -> float:
        return sum(layer.limit for layer in self.layers)


@dataclass(frozen=True)
class _Site:
    """A dispatch: its instruction's index, its kernel's number in the module, how many calls it makes, where it
    comes from."""

    index: int
    kernel: int
    batch: int
    location: str


def profile_layers(
    executable: VmExecutable, arrays: Sequence[np.ndarray], module: ModuleOp | None = None, runs: int = 1000
) -> LayerProfile:
    """Profiles calls for about as long as `measure` does; `module`, the source, gives the layers their names."""
    program, sites = _program(executable)
    constants = sum(constant.array.nbytes for constant in executable.module.constants)
    source = _source_of(constants, executable)
    # Of a buffer much smaller than the core's cache, the time of the calls is measured, not the cache's rate.
    near = int(_core(executable).l2_kept)
    read = None if source == _MEMORY else max(near, constants // executable.threads)
    before = measure_roofline(executable.threads, target=executable.target, nbytes=read)
    found = _profiles(program, *buffers(executable, arrays), runs)
    timing = measure(executable, arrays, runs)
    # What else runs on the machine can only lower it.
    roofline = before.best(measure_roofline(executable.threads, target=executable.target, nbytes=read))
    layers = _layers(executable, sites, found, roofline, _labels(module), source != _NEAR)
    between = statistics.median(p.seconds - sum(k.slowest for k in p.kernels) for p in found)
    return LayerProfile(layers, timing, between, roofline, source)


_MEMORY, _LAST, _NEAR = "memory", "the last cache", "the cores' own caches"


def _source_of(constants: int, executable: VmExecutable) -> str:
    if constants + executable.module.function().arena > last_cache_bytes():
        return _MEMORY
    return _NEAR if constants <= executable.threads * _core(executable).l2_kept else _LAST


def _core(executable: VmExecutable) -> Core:
    return (executable.target or Target.host()).core


def profile_module(module: ModuleOp, settings: Settings, threads: int) -> LayerProfile:
    """Compiles `module`, in which no dimension is open, and profiles calls with random numbers. Raises MdslError."""
    executable = api.build(module, settings, "vm", threads)
    assert isinstance(executable, VmExecutable)
    return profile_layers(executable, random_arrays(executable.inputs, 0), module)


@dataclass(frozen=True)
class Counts:
    """What one call does: instructions, dispatches among them, micro-kernel calls."""

    instructions: int
    dispatches: int
    kernel_calls: int


def count(executable: VmExecutable, arrays: Sequence[np.ndarray]) -> Counts:
    """Counted in a profiled call."""
    program, sites = _program(executable)
    found = program.profile(*buffers(executable, arrays))
    calls = [kernel.calls for kernel in found.kernels]
    dispatches = sum(made // site.batch for made, site in zip(calls, sites, strict=True))
    return Counts(found.instructions, dispatches, sum(calls))


def _program(executable: VmExecutable) -> tuple[Program, list[_Site]]:
    """The executable's program with a kernel a dispatch."""
    module, sites = _one_kernel_a_dispatch(executable.module)
    kernels = executable.program.kernels
    names = [executable.module.kernels[site.kernel].name for site in sites]
    copies = [kernel.name for kernel in module.kernels]
    addresses = {copy: kernels.addresses[name] for copy, name in zip(copies, names, strict=True)}
    signatures = {copy: kernels.signatures[name] for copy, name in zip(copies, names, strict=True)}
    return Program(module, Kernels(addresses, signatures, kernels.code), threads=executable.threads), sites


def _one_kernel_a_dispatch(module: Module) -> tuple[Module, list[_Site]]:
    function = module.function()
    code: list[Instruction] = []
    sites: list[_Site] = []
    for index, instruction in enumerate(function.code):
        if instruction.opcode == "dispatch":
            kernel, calls = instruction.operands
            assert isinstance(kernel, int) and isinstance(calls, tuple)
            location = function.locations[index] if index < len(function.locations) else ""
            instruction = instruction._replace(operands=(len(sites), calls))
            sites.append(_Site(index, kernel, len(calls), location))
        code.append(instruction)
    kernels = [Kernel(f"{module.kernels[site.kernel].name}.{n}", "") for n, site in enumerate(sites)]
    return replace(module, functions=[replace(function, code=code)], kernels=kernels), sites


def _profiles(
    program: Program, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray], runs: int
) -> list[Profile]:
    """Profiled calls, after one that warms up."""
    program.profile(arrays, outputs)
    end, found = deadline(), []
    while len(found) < 3 or (len(found) < runs and time.perf_counter() < end):
        found.append(program.profile(arrays, outputs))
    return found


def _layers(
    executable: VmExecutable,
    sites: Sequence[_Site],
    profiles: Sequence[Profile],
    roofline: Roofline,
    labels: Mapping[str, tuple[str, str]],
    reads: bool,
) -> list[Layer]:
    kernels = executable.module.kernels
    touched = reaches(executable.module, executable.program.kernels.signatures)
    flops = {number: kernel_flops(kernels[number].ir) for number in {site.kernel for site in sites}}
    rows: list[Layer] = []
    for group in _groups(sites, [kernel.name for kernel in kernels]):
        numbers = [sites.index(site) for site in group]
        seconds = [statistics.median(p.kernels[n].slowest for p in profiles) for n in numbers]
        calls = [profiles[0].kernels[n].calls for n in numbers]
        work = sum(count * flops[site.kernel] for count, site in zip(calls, group, strict=True))
        places = [site.index for site in group]
        constants = touched.constants(places)
        name, shape = labels.get(group[0].location, (group[0].location, ""))
        longest = kernels[group[seconds.index(max(seconds))].kernel].name
        more = f" +{len(group) - 1}" if len(group) > 1 else ""
        rows.append(
            Layer(
                name,
                group[0].location,
                shape,
                longest + more,
                sum(calls),
                sum(seconds),
                work,
                constants,
                touched.activations(places),
                roofline.seconds(work, constants if reads else 0),
            )
        )
    return rows


def _groups(sites: Iterable[_Site], kernels: Sequence[str]) -> list[list[_Site]]:
    """Neighbours that come from one op and whose kernels do the same on tiles of several shapes."""
    groups: list[list[_Site]] = []
    for site in sites:
        last = groups[-1][-1] if groups else None
        same = last is not None and site.location and site.location == last.location
        if last is not None and same and _kind(kernels[site.kernel]) == _kind(kernels[last.kernel]):
            groups[-1].append(site)
        else:
            groups.append([site])
    return groups


def _kind(kernel: str) -> str:
    """`conv_maximum` of `conv_maximum_1x2x1x14x16`."""
    return kernel.rstrip("0123456789x_")


def _labels(source: ModuleOp | None) -> dict[str, tuple[str, str]]:
    """The name and the shapes of the op at each place of the source: of its first two operands."""
    ops = (op for op in source.walk() if op.results and not isinstance(op, Constant)) if source else ()
    return {place: (op.results[0].name or op.name, _shapes(op)) for place, op in main_ops(ops).items()}


def _shapes(op: Op) -> str:
    """`1x64x56x56 * 256x64x1x1`: an op's input and its weight, if it has one."""
    shapes = ["x".join(map(str, v.type.shape)) for v in op.operands[:2] if isinstance(v.type, ShapedType)]
    return " * ".join(shapes)
