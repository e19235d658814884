"""`mdsl bench`: how long a program takes, where, and what each optimisation is worth."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import note, read_program
from mdsl.cli.load import Engine, PassPipeline, ProgramFile, Threads, Ukernels, UnrollDispatch, load_program
from mdsl.cli.progress import progress, stoppable

if TYPE_CHECKING:
    import numpy as np

    from mdsl.report.measure import Row, Timing
    from mdsl.vm.executable import Profile


def bench(
    program: ProgramFile,
    input: Annotated[
        list[str] | None, typer.Option("--input", help="As for 'mdsl run'; random numbers without it.")
    ] = None,
    runs: Annotated[
        int, typer.Option(help="Calls to time (fewer if they take more than two seconds).", min=1)
    ] = 1000,
    engine: Engine = "vm",
    threads: Threads = 1,
    ukernels: Ukernels = True,
    unroll_dispatch: UnrollDispatch = None,
    pass_pipeline: PassPipeline = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Compare: interpreted, + micro-kernels, + unroll-dispatch, jit."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time a program: median and spread over many calls, and where the time goes."""
    if ablation:
        _ablation(program, input, runs, threads, unroll_dispatch or 4, pass_pipeline, as_json)
        return
    from mdsl.executable import VmExecutable
    from mdsl.report.measure import measure, profile

    executable = load_program(
        program, engine, threads, ukernels=ukernels, unroll_dispatch=unroll_dispatch, pipeline=pass_pipeline
    )
    arrays = _inputs(input, executable.inputs)
    with progress("measuring"), stoppable():
        timing = measure(executable, arrays, runs)
        counts = profile(executable, arrays) if isinstance(executable, VmExecutable) else None
    if as_json:
        _print_json(
            {"program": program, "engine": engine, "threads": threads, "timing": timing, "profile": counts}
        )
        return
    typer.echo(
        f"{_us(timing.median)} median of {timing.runs} calls ({_spread(timing)}), engine {engine}, threads {threads}"
    )
    if counts is not None:
        _print_profile(counts)


def _inputs(texts: list[str] | None, specs: Any) -> list[np.ndarray]:
    from mdsl.cli.inputs import read_inputs
    from mdsl.signature import arrange, random_arrays

    return arrange(specs, [], read_inputs(texts, specs)) if texts else random_arrays(specs)


def _ablation(
    program: str,
    texts: list[str] | None,
    runs: int,
    threads: int,
    factor: int,
    pipeline: str | None,
    as_json: bool,
) -> None:
    from mdsl.report.measure import ablation
    from mdsl.signature import signature
    from mdsl.syntax.errors import MdslError

    if program.endswith(".mbc"):
        raise MdslError(
            f"{program}: error: the ablation compiles the program four times: it needs the .mir file"
        )
    module = read_program(program)
    arrays = _inputs(texts, signature(module)[0])
    rows: list[Row] = []
    with progress("measuring") as show, stoppable():
        for row in ablation(module, arrays, runs, threads, factor, pipeline):
            rows.append(row)
            show(f"measured {row.name}: {_us(row.timing.median)}")
    if as_json:
        _print_json({"program": program, "threads": threads, "rows": rows})
        return
    _table(
        ["variant", "time", "spread", "speed-up", "instructions", "kernel calls"],
        [_cells(row) for row in rows],
    )
    few = [row.name for row in rows if row.timing.runs < 3]
    if few:
        note(f"{', '.join(few)}: a single call, for it is slow")


def _cells(row: Row) -> list[str]:
    time, spread, speedup = _us(row.timing.median), _spread(row.timing), f"{row.speedup:.1f}x"
    return [row.name, time, spread, speedup, _count(row.instructions), _count(row.kernel_calls)]


def _print_profile(counts: Profile) -> None:
    busy = sum(kernel.seconds for kernel in counts.kernels)
    took = f"one profiled call took {_us(counts.seconds)}, {_us(busy)} of it in micro-kernels"
    typer.echo(f"{counts.instructions} instructions; {took}")
    rows = sorted(counts.kernels, key=lambda kernel: -kernel.seconds)
    _table(
        ["micro-kernel", "calls", "time", "a call", "share"],
        [
            [
                k.name,
                _count(k.calls),
                _us(k.seconds),
                _us(k.seconds / max(k.calls, 1)),
                _percent(k.seconds, busy),
            ]
            for k in rows
        ],
    )


def _table(header: list[str], rows: list[list[str]]) -> None:
    """The first column to the left, the others to the right; `rich` draws it on a terminal."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*header)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        typer.echo("  ".join(cells).rstrip())


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us"


def _spread(timing: Timing) -> str:
    return f"{1e6 * timing.lower:,.1f} to {1e6 * timing.upper:,.1f}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _print_json(value: dict[str, Any]) -> None:
    from dataclasses import asdict, is_dataclass

    def plain(found: object) -> object:
        assert is_dataclass(found) and not isinstance(found, type)
        return asdict(found)

    typer.echo(json.dumps(value, default=plain, indent=2))
