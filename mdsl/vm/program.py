"""A verified function of a module with its native code, ready to be called on arrays."""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mdsl.bytecode.module import DTYPES, BytecodeError, Constant, Module, TensorSpec
from mdsl.codegen.kernels import Kernels, load_kernels
from mdsl.errors import MdslError
from mdsl.support.collector import collector_paused
from mdsl.support.processors import processors
from mdsl.target.target import Target
from mdsl.vm import interpreter
from mdsl.vm.calls import MAX_THREADS, native_calls
from mdsl.vm.exchanges import address_of, exchanges
from mdsl.vm.frames import FramePool
from mdsl.vm.memory import Frame, KernelProfile, OutputPool, address, aligned_array, together
from mdsl.vm.prepared import prepared
from mdsl.vm.variant import Variant

ENGINES = ("vm", "jit")


class CallError(ValueError):
    """Arrays that do not fit a program's signature, or that it cannot use in place."""


@dataclass(frozen=True)
class KernelTime:
    """What a profiled call spent in one kernel: `seconds` over all workers, `slowest` of the one that spent most."""

    name: str
    calls: int
    seconds: float
    slowest: float


@dataclass(frozen=True)
class Profile:
    """A profiled call: its duration, the instructions interpreted and the kernels, over all workers."""

    seconds: float
    instructions: int
    kernels: tuple[KernelTime, ...]


class Program:
    """A function of a module on one of the engines.

    `kernels` are the module's micro-kernels, which stay loaded while the program lives. Calls from several threads may overlap:
    each has a frame of its own. With `fuel` a call may take so many steps, and the kernels must be
    compiled to keep to that; a step is a trip of a loop, the call of a kernel, or an element of a copy or fill. What the
    JIT makes is for `target`, the host by default; the interpreter is always the host's.
    Raises BytecodeError if the module cannot be proved safe.
    """

    def __init__(
        self,
        module: Module,
        kernels: Kernels | None = None,
        engine: str = "vm",
        threads: int = 1,
        function: str | None = None,
        fuel: int | None = None,
        target: Target | None = None,
    ) -> None:
        _check(engine, threads)
        self.module, self.kernels = module, kernels or Kernels()
        self.function = module.function(function)
        self._prepared = prepared(module, self.function, self.kernels.signatures)
        self.engine = engine
        self.threads = threads
        self.fuel = fuel
        self.target = target
        # Which live as long as their addresses.
        self._exchanges = exchanges(module, self.function, self.kernels.signatures)
        own = {name: address_of(function) for name, function in self._exchanges.items()}
        self.kernel_addresses = _addresses(module, {**self.kernels.addresses, **own})
        self.inputs, self.outputs = self.function.inputs, self.function.outputs
        self._wanted = [*_wanted(self.inputs, _READABLE), *_wanted(self.outputs, _READABLE | _WRITEABLE)]
        self._calls = native_calls()
        self._packed = struct.Struct(f"{len(self._wanted)}Q").pack
        self._constants = [aligned_array(constant.array) for constant in module.constants]
        self._pools = [
            OutputPool(spec.shape, DTYPES[spec.dtype], cleared=reach < spec.nbytes)
            for spec, reach in zip(self.outputs, self._prepared.written, strict=True)
        ]
        by_output = {made: given for given, made in self.function.donations}
        self._given = [by_output.get(k) for k in range(len(self.outputs))] if by_output else []
        self._profiled: list[FramePool] = []
        self._entry, self._code = self._prepare()
        # A team runs one job at a time: its second caller waits, for the frame as well.
        make = lambda: self._new_frame(self._entry, self._code)  # noqa: E731
        self._frames = self._pool(make, processors() if threads == 1 else 1)

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Run the function on arrays in the order of the signature, writing into `outputs`.

        Arrays must have the signature's shapes and dtypes and be C-contiguous; outputs must be writeable. An output that
        an input is donated to gets its numbers first, if it is another array.
        Raises CallError otherwise, before anything ran; MdslError when the fuel is used up.
        """
        self._run(self._frames, self._addresses(inputs, outputs))

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the function on arrays; returns outputs: new ones, or the arrays of the inputs that are donated to them
        (a copy of one that is not writeable, or given twice)."""
        outputs = [pool.take() for pool in self._pools] if not self._given else self._placed(inputs)
        self.run(inputs, outputs)
        return outputs

    def _placed(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of a call: new arrays, or those of inputs."""
        if len(inputs) != len(self.inputs):
            self._addresses(inputs, [])
        places = [address(a) if isinstance(a, np.ndarray) else id(a) for a in inputs]
        uses = Counter(places)
        return [
            pool.take() if given is None else _owned(inputs[given], uses[places[given]])
            for pool, given in zip(self._pools, self._given, strict=True)
        ]

    def profile(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Profile:
        """Run once with every instruction and kernel call counted; always in the interpreter."""
        addresses = self._addresses(inputs, outputs)
        # A frame is used again, for a new arena's page faults would be a kernel's time, but never by two at once.
        try:
            pool = self._profiled.pop()
        except IndexError:
            pool = self._new_profiled()
        for frame in pool.frames:
            frame.profile[...] = 0
        ticks, start = self._calls.clock(), time.perf_counter()
        self._run(pool, addresses)
        seconds = time.perf_counter() - start
        tick = seconds / max(self._calls.clock() - ticks, 1)
        profile = self._read_profile(pool.frames[0].profile, seconds, tick)
        self._profiled.append(pool)
        return profile

    def _new_profiled(self) -> FramePool:
        variant = Variant(profiled=True, fuelled=self.fuel is not None)
        words = self._prepared.layout.placed(self.kernel_addresses, variant)
        entry = interpreter.entry_address(variant)
        return self._pool(lambda: self._new_frame(entry, words), 1)

    def _read_profile(self, counters: np.ndarray, seconds: float, tick: float) -> Profile:
        """`counters` has a row a worker."""
        times = []
        for index, kernel in enumerate(self.module.kernels):
            start = KernelProfile.offset(index) // 8
            calls, ticks = counters[:, start + KernelProfile.CALLS], counters[:, start + KernelProfile.TICKS]
            total, slowest = float(ticks.sum() * tick), float(ticks.max() * tick)
            times.append(KernelTime(kernel.name, int(calls.sum()), total, slowest))
        return Profile(seconds, int(counters[:, KernelProfile.INSTRUCTIONS].sum()), tuple(times))

    def _prepare(self) -> tuple[int, np.ndarray]:
        """The entry to run and the code that it is given."""
        variant = Variant(fuelled=self.fuel is not None)
        if self.engine == "vm":
            words = self._prepared.layout.placed(self.kernel_addresses, variant)
            return interpreter.entry_address(variant), words
        from mdsl.vm import jit

        self._native = jit.compile_function(self.function, variant, self.target)
        return self._native.address("main"), np.array([*self.kernel_addresses, 0], dtype=np.uint64)

    def _run(self, pool: FramePool, addresses: bytes) -> None:
        if not pool.run(addresses):
            raise MdslError(f"error: the program takes more than {self.fuel} steps, which is its fuel")

    def _pool(self, make: Callable[[], Frame], most: int) -> FramePool:
        return FramePool(make, most, len(self._wanted), self.threads)

    def _new_frame(self, entry: int, code: np.ndarray) -> Frame:
        function = self.function
        return Frame(
            entry=entry,
            code=code.ctypes.data,
            registers=len(function.registers),
            inputs_and_outputs=len(self._wanted),
            constants=[array.ctypes.data for array in self._constants],
            arena=function.arena,
            kernels=len(self.module.kernels),
            threads=self.threads,
            share=self._calls.share,
            fuel=self.fuel,
        )

    def _addresses(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> bytes:
        """The addresses of the arrays, once they are checked, and donated inputs lie in the outputs that they are for."""
        if len(inputs) != len(self.inputs) or len(outputs) != len(self.outputs):
            wanted = f"{len(self.inputs)} inputs and {len(self.outputs)} outputs"
            raise CallError(f"'{self.function.name}' takes {wanted}, not {len(inputs)} and {len(outputs)}")
        addresses: list[int] = []
        for array, (shape, dtype, flags) in zip((*inputs, *outputs), self._wanted, strict=True):
            if (
                not isinstance(array, np.ndarray)
                or array.shape != shape
                or array.dtype != dtype
                or array.flags.num & flags != flags
            ):
                raise CallError(_complaint(array, (*self.inputs, *self.outputs)[len(addresses)]))
            addresses.append(address(array))
        for given, made in self.function.donations:
            if outputs[made] is not inputs[given]:
                outputs[made][...] = inputs[given]
        return self._packed(*addresses)


def begin(engine: str = "vm", fuel: int | None = None) -> None:
    """What a program for this engine runs on is compiled, if the cache lacks it, on a thread beside the caller's, who has yet to
    compile the program."""

    def load() -> None:
        with suppress(Exception):  # who needs it tries again, and hears of it
            native_calls()
            if engine == "vm":
                interpreter.entry_address(Variant(fuelled=fuel is not None))

    with suppress(RuntimeError):  # where no thread can be had, who needs it compiles it
        threading.Thread(target=load, name="mdsl-engine").start()


@collector_paused()
def with_kernels(
    module: Module,
    engine: str = "vm",
    threads: int = 1,
    fuel: int | None = None,
    target: Target | None = None,
) -> Program:
    """The program of a module, its micro-kernels compiled and its constants laid together. Raises BytecodeError,
    VerifyError, MdslError, TargetError."""
    parsed, module.parsed = module.parsed, {}
    texts = {kernel.name: kernel.ir for kernel in module.kernels}
    kernels = load_kernels(texts, target, parsed, fuel is not None)
    arrays = together([constant.array for constant in module.constants])
    module.constants = [
        Constant(constant.name, array) for constant, array in zip(module.constants, arrays, strict=True)
    ]
    return Program(module, kernels, engine, threads, fuel=fuel, target=target)


def _check(engine: str, threads: int) -> None:
    if engine not in ENGINES:
        raise ValueError(f"unknown engine '{engine}'; engines of the VM: {', '.join(ENGINES)}")
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must be from 1 to {MAX_THREADS}, not {threads}")


def _owned(array: np.ndarray, uses: int) -> np.ndarray:
    """A donated input's array, to be written to: a copy if it is not writeable, or another input as well."""
    if not isinstance(array, np.ndarray) or (uses == 1 and array.flags.writeable):
        return array
    return array.copy()


def _wanted(specs: Sequence[TensorSpec], flags: int) -> list[tuple[tuple[int, ...], np.dtype, int]]:
    """What the arrays of a signature must be like: shape, type and NumPy's flags."""
    return [(spec.shape, DTYPES[spec.dtype], flags) for spec in specs]


def _addresses(module: Module, kernels: Mapping[str, int]) -> list[int]:
    missing = [kernel.name for kernel in module.kernels if kernel.name not in kernels]
    if missing:
        raise BytecodeError(f"no native code for kernel '{missing[0]}'")
    return [kernels[kernel.name] for kernel in module.kernels]


_READABLE = 0x0001 | 0x0100
"""NumPy's flags for C-contiguous and aligned."""
_WRITEABLE = 0x0400


def _complaint(array: object, spec: TensorSpec) -> str:
    """What is wrong with an array."""
    if not isinstance(array, np.ndarray):
        return f"'{spec.name}' must be a NumPy array, not {type(array).__name__}"
    if array.shape != spec.shape or array.dtype != DTYPES[spec.dtype]:
        wanted = f"'{spec.name}' must be {spec.dtype} of shape {list(spec.shape)}"
        return f"{wanted}, not {array.dtype} of shape {list(array.shape)}"
    if array.flags.num & _READABLE != _READABLE:
        return f"'{spec.name}' must be C-contiguous and aligned"
    return f"'{spec.name}' must be writeable"
