"""The measurements that `mdsl bench` makes, each from a request to a table on stdout and a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from mdsl.cli.files import note
from mdsl.cli.load import Program
from mdsl.cli.progress import progress, stoppable
from mdsl.cli.tables import count, megabytes, percent, table, us, write_json
from mdsl.errors import MdslError

if TYPE_CHECKING:
    import numpy as np

    from mdsl.benchmarking.ablation import Row, Without
    from mdsl.benchmarking.measure import Timing
    from mdsl.benchmarking.profile import Layer, LayerProfile
    from mdsl.benchmarking.regret import Tiling
    from mdsl.benchmarking.versus import Contender
    from mdsl.compiler.settings import Settings
    from mdsl.vm.program import Profile


@dataclass(frozen=True)
class Request:
    """What the command was given."""

    program: str
    inputs: list[str]
    runs: int
    engine: str
    threads: int
    settings: Settings
    json: str | None

    def read(self, uncompiled: bool = False) -> tuple[Program, list[np.ndarray]]:
        """The program with all sizes, and the arrays of `--input`, else random ones; with `uncompiled` as it was read, if
        it is no bytecode. Raises MdslError, OSError."""
        from mdsl.cli.inputs import read_inputs
        from mdsl.compiler.entry import closed, random_arrays
        from mdsl.runtime.signature import arrange

        found = Program(self.program, self.engine, self.threads, self.settings, uncompiled=uncompiled)
        texts, specs = self.inputs, found.inputs
        arrays = arrange(specs, [], read_inputs(texts, specs)) if texts else random_arrays(closed(specs))
        return found, found.take(arrays)

    @property
    def shown(self) -> bool:
        """True if stdout is free for people."""
        return self.json != "-"

    @property
    def target(self) -> str:
        """The name of the machine that code is made for."""
        return self.settings.machine().name

    @property
    def place(self) -> str:
        """The same as the end of a line, where it is not this machine."""
        return "" if self.target == "host" else f", target {self.target}"

    def write(self, **figures: Any) -> None:
        """Writes the JSON that was asked for: last, for what was measured should not be lost. Raises OSError."""
        if self.json is not None:
            about = {"program": self.program, "threads": self.threads, "target": self.target}
            write_json({**about, **figures}, self.json)


# A program's time -----------------------------------------------------------------------------------------


def times_of(request: Request) -> None:
    from mdsl.benchmarking.measure import measure, profile
    from mdsl.runtime.executable import VmExecutable

    program, arrays = request.read()
    executable = program.executable()
    with progress("measuring"), stoppable():
        timing = measure(executable, arrays, request.runs)
        counts = profile(executable, arrays) if isinstance(executable, VmExecutable) else None
    if request.shown:
        calls = f"median of {timing.runs} calls ({_spread(timing)})"
        where = f"engine {request.engine}, threads {request.threads}{request.place}"
        typer.echo(f"{us(timing.median)} {calls}, {where}")
        if counts is not None:
            _print_kernels(counts)
    request.write(engine=request.engine, timing=timing, profile=counts)


def _spread(timing: Timing) -> str:
    return f"{1e6 * timing.lower:,.1f} to {1e6 * timing.upper:,.1f}"


def _print_kernels(counts: Profile) -> None:
    busy = sum(kernel.seconds for kernel in counts.kernels)
    took = f"one profiled call took {us(counts.seconds)}, {us(busy)} of it in micro-kernels"
    typer.echo(f"{counts.instructions} instructions; {took}")
    table(
        ["micro-kernel", "calls", "time", "a call", "share"],
        [
            [k.name, count(k.calls), us(k.seconds), us(k.seconds / max(k.calls, 1)), percent(k.seconds, busy)]
            for k in sorted(counts.kernels, key=lambda kernel: -kernel.seconds)
        ],
    )


# What each optimisation is worth --------------------------------------------------------------------------


def ablation_of(request: Request) -> None:
    from mdsl.benchmarking.ablation import ablation, can_ablate

    program, arrays = request.read(uncompiled=True)
    module = program.module
    if module is None or not can_ablate(module):
        raise MdslError(
            f"{request.program}: error: the ablation compiles the program in several ways: it needs it as it was before "
            "it was lowered"
        )
    rows: list[Row] = []
    with progress("measuring") as show, stoppable():
        for row in ablation(module, arrays, request.runs, request.threads, program.settings):
            rows.append(row)
            show(f"measured {row.name}: {us(row.timing.median)}")
    if request.shown:
        table(
            ["variant", "time", "spread", "speed-up", "instructions", "dispatches", "kernel calls"],
            [_row_cells(row) for row in rows],
        )
        few = [row.name for row in rows if row.timing.runs < 3]
        if few:
            note(f"{', '.join(few)}: a single call, for it is slow")
    request.write(rows=rows)


def pass_ablation_of(request: Request) -> None:
    from mdsl.benchmarking.ablation import pass_ablation

    program, arrays = request.read(uncompiled=True)
    if program.module is None:
        raise MdslError(
            f"{request.program}: error: --ablation=passes needs the program as it was before it was compiled"
        )
    rows: list[Without] = []
    with progress("measuring") as show, stoppable():
        for row in pass_ablation(program.module, arrays, request.runs, request.threads, program.settings):
            rows.append(row)
            show(f"measured without {row.name}")
    if request.shown:
        cells = [[r.name, *_lost_cells(r)] for r in rows]
        table(["without", "time", "whole pipeline", "lost", "quartiles", ""], cells, words=(0, 5))
        if any(row.is_noise for row in rows):
            note("(noise): a call without that pass was now slower, now faster")
    request.write(without=rows)


def _lost_cells(row: Without) -> list[str]:
    lost = "" if row.lost is None else f"{100 * row.lost:+.1f} %"
    if row.seconds is None or row.whole is None or row.spread is None:
        return ["", "", lost, "", row.why]
    lower, upper = (f"{100 * part:+.1f} %" for part in row.spread)
    return [us(row.seconds), us(row.whole), lost, f"{lower} {upper}", "(noise)" if row.is_noise else ""]


def _row_cells(row: Row) -> list[str]:
    counts = [count(row.instructions), count(row.dispatches), count(row.kernel_calls)]
    return [row.name, us(row.timing.median), _spread(row.timing), f"{row.speedup:,.1f}x", *counts]


# Layers ---------------------------------------------------------------------------------------------------


def layers_of(request: Request) -> None:
    from mdsl.benchmarking.profile import profile_layers
    from mdsl.runtime.executable import VmExecutable

    program, arrays = request.read(uncompiled=True)
    executable = program.executable()
    assert isinstance(executable, VmExecutable)
    with progress("measuring"), stoppable():
        found = profile_layers(executable, arrays, program.module, request.runs)
    if request.shown:
        _print_layers(found, request.threads, request.place)
    request.write(profile=found, limit=found.limit)


def _print_layers(found: LayerProfile, threads: int, place: str) -> None:
    roof, call = found.roofline, found.call
    rows = [_layer_cells(layer, found) for layer in found.layers]
    rest = found.between
    rows.append(
        ["(between dispatches)", "", "", "", us(rest), percent(rest, found.total), *[""] * 4, us(rest)]
    )
    header = ["layer", "input * weight", "kernel", "calls", "time", "share", "GFLOP/s"]
    table([*header, "constants", "activations", "roofline", "gap"], rows, words=(0, 1, 2))
    typer.echo(
        f"\n{us(call.median)} a call (median of {call.runs}, {_spread(call)}); the parts make {us(found.total)}, "
        f"{us(found.busy)} of it in dispatches; threads {threads}{place}"
    )
    flops, constants = sum(x.flops for x in found.layers), sum(x.constants for x in found.layers)
    speed = f"{1e-9 * flops / call.median:,.1f} GFLOP/s"
    typer.echo(f"{1e-9 * flops:,.3f} GFLOP in all ({speed}), {megabytes(constants)} of constants")
    typer.echo(
        f"roofline of {threads} thread{'s'[: threads - 1]}: {1e-9 * roof.flops:,.1f} GFLOP/s, {1e-9 * roof.bandwidth:,.1f} GB/s (constants come from {found.source}); "
        f"the program's: {us(found.limit)}, {percent(found.limit, call.median)} of a call"
    )


def _layer_cells(layer: Layer, found: LayerProfile) -> list[str]:
    speed = f"{1e-9 * layer.flops / layer.seconds:,.1f}" if layer.seconds else ""
    return [
        layer.name,
        layer.shape,
        layer.kernel,
        count(layer.calls),
        us(layer.seconds),
        percent(layer.seconds, found.total),
        speed,
        megabytes(layer.constants),
        megabytes(layer.activations),
        us(layer.limit),
        us(layer.gap),
    ]


# What the cost model gives away ---------------------------------------------------------------------------


def regret_of(request: Request) -> None:
    from mdsl.benchmarking.regret import regret

    program = Program(request.program, request.engine, request.threads, request.settings, uncompiled=True)
    if program.module is None:
        raise MdslError(
            f"{request.program}: error: --regret needs the program as it was before it was compiled"
        )
    with progress("timing tiles"), stoppable():
        found = regret(program.module.clone(), program.settings)
    if request.shown:
        header = ["contraction", "layers", "tile", "time", "fastest tile", "time", "given away"]
        table(header, [_tiling_cells(tiling) for tiling in found.worst()], words=(0, 2, 4))
        typer.echo(
            f"\nthe cost model's tiles take {us(found.seconds)} in all, {100 * found.share:.1f} % more than the fastest"
        )
    request.write(regret=found, share=found.share)


def _tiling_cells(found: Tiling) -> list[str]:
    chosen, best = ("x".join(map(str, tile)) for tile in (found.chosen, found.best))
    return [
        found.shape,
        count(found.count),
        chosen,
        us(found.seconds),
        best,
        us(found.least),
        us(found.given_away),
    ]


# Other runtimes -------------------------------------------------------------------------------------------


def versus(request: Request, peers: str, rounds: int) -> None:
    from mdsl.benchmarking.versus import adapters, compare

    modules = adapters(peers)
    if not request.program.lower().endswith(".onnx"):
        raise MdslError(f"{request.program}: error: --vs: other runtimes need the model as an .onnx file")
    arrays = request.read()[1]
    settings = {**vars(request.settings), "engine": request.engine}
    with progress("comparing") as show:
        found = compare(request.program, arrays, modules, request.threads, rounds, settings, show)
    if request.shown:
        header = ["runtime", "version", "median", "10 to 90 %", "ratio", "error", "load", "remarks"]
        table(header, [_contender_cells(runtime) for runtime in found], words=(0, 1, 7))
    request.write(rounds=rounds, runtimes=found)


def _contender_cells(found: Contender) -> list[str]:
    if found.failed:
        return [found.name, "", "", "", "", "", "", found.failed]
    remarks = [found.how] if found.how else []
    if not found.agrees:
        remarks.append("its outputs DISAGREE with mdsl's")
    if found.unsteady and found.ratios is not None:
        lower, upper = found.ratios
        remarks.append(f"ratio UNSTEADY, {lower:.2f} to {upper:.2f} over rounds: the machine was busy")
    return [
        found.name,
        found.version,
        us(found.median),
        f"{1e6 * found.low:,.1f} to {1e6 * found.high:,.1f}",
        "" if found.ratio is None else f"{found.ratio:.3f}",
        "" if found.error is None else f"{found.error:.1e}",
        f"{found.load:.2f} s",
        "; ".join(remarks),
    ]
