"""`mdsl bench`: how long a program takes, where, what each optimisation is worth, and what others take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mdsl.cli.bare import with_bare_values
from mdsl.cli.benchmarks import (
    Request,
    ablation_of,
    layers_of,
    pass_ablation_of,
    regret_of,
    times_of,
    versus,
)
from mdsl.cli.files import check_output
from mdsl.cli.load import Engine, Inputs, ProgramFile, Threads
from mdsl.cli.settings import takes_settings
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.errors import MdslError

RUNS, ROUNDS = 1000, 20

_UNUSED = {
    "": ("--rounds",),
    "--ablation": ("--engine", "--no-ukernels", "--rounds"),
    "--profile": ("--engine", "--rounds"),
    "--regret": ("--engine", "--no-ukernels", "--rounds", "--runs", "--threads"),
    "--vs": ("--runs",),
}
"""What a measurement does nothing with: the ablation goes through engines and micro-kernels by itself, the layers
are those of the interpreter, and contractions are timed one by one on one thread."""


class Ablation(StrEnum):
    """What the variants of a program differ by."""

    steps = "steps"
    passes = "passes"


class BenchCommand(TyperCommand):
    """A command whose option `--ablation` may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_bare_values(args, {"--ablation": "steps"}))


@takes_settings
def bench(
    program: ProgramFile,
    input: Inputs = None,
    runs: Annotated[
        int, typer.Option(help="Calls to time (fewer if they take more than two seconds).", min=1)
    ] = RUNS,
    engine: Engine = "vm",
    threads: Threads = 1,
    settings: Settings = DEFAULT,
    ablation: Annotated[
        Ablation | None,
        typer.Option(
            "--ablation",
            help="Compare: interpreted, + micro-kernels, + unroll-dispatch, jit; with =passes without each pass in turn.",
            metavar="[=passes]",
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="The time of each layer, and how far it is from the hardware's limit."
        ),
    ] = False,
    regret: Annotated[
        bool,
        typer.Option(
            "--regret",
            help="What the cost model's tiles give away against the best of a dozen that are timed, by layer.",
        ),
    ] = False,
    vs: Annotated[
        str | None,
        typer.Option(
            "--vs",
            metavar="PEERS",
            help="Other runtimes beside mdsl: onnxruntime,openvino,... or all, or an adapter's module, as bench.peers.torch.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of --vs; in each all run in turn.", min=1)] = ROUNDS,
    json: Annotated[
        str | None,
        typer.Option("--json", help="Write the figures to this file as well; - is stdout.", metavar="FILE"),
    ] = None,
) -> None:
    """Time a program: median and spread over many calls, and where the time goes. Inputs are random without --input."""
    modes = {
        "--ablation": ablation is not None,
        "--profile": profile,
        "--regret": regret,
        "--vs": vs is not None,
    }
    differ = {
        "--engine": engine != "vm",
        "--no-ukernels": not settings.ukernels,
        "--runs": runs != RUNS,
        "--threads": threads != 1,
        "--rounds": rounds != ROUNDS,
    }
    _check(
        [mode for mode, asked in modes.items() if asked], [name for name, found in differ.items() if found]
    )
    check_output(None if json is None else Path(json), program)
    request = Request(program, input or [], runs, engine, threads, settings, json)
    if ablation is Ablation.passes:
        pass_ablation_of(request)
    elif ablation is not None:
        ablation_of(request)
    elif vs is not None:
        versus(request, vs, rounds)
    elif profile:
        layers_of(request)
    elif regret:
        regret_of(request)
    else:
        times_of(request)


def _check(modes: list[str], options: list[str]) -> None:
    """Raises MdslError for several measurements at once, and for an option that the one does nothing with."""
    if len(modes) > 1:
        raise MdslError(f"error: {' and '.join(modes)} are two measurements: choose one")
    mode = modes[0] if modes else ""
    unused = [option for option in options if option in _UNUSED[mode]]
    if unused:
        where = f"with {mode}" if mode else "without --vs"
        raise MdslError(f"error: {', '.join(unused)} means nothing {where}")
