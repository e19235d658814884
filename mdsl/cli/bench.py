"""`mdsl bench`: how long a program takes, where, what each optimisation is worth, and what others take."""

from __future__ import annotations

from typing import Annotated

import typer

from mdsl.cli.benchmarks import Request, ablation_of, layers_of, times_of, versus
from mdsl.cli.load import (
    BindOption,
    Engine,
    PassPipeline,
    ProgramFile,
    Threads,
    Tuning,
    Ukernels,
    UnrollDispatch,
    Winograd,
    bindings,
)


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
    winograd: Winograd = True,
    tune: Tuning = False,
    pass_pipeline: PassPipeline = None,
    bind: BindOption = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Compare: interpreted, + micro-kernels, + unroll-dispatch, jit."),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="The time of each layer, and how far it is from the hardware's limit."
        ),
    ] = False,
    vs: Annotated[
        str | None,
        typer.Option(
            "--vs", metavar="PEERS", help="Other runtimes beside mdsl: onnxruntime,openvino,... or all."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of --vs; in each all run in turn.", min=1)] = 20,
    json: Annotated[
        str | None,
        typer.Option("--json", help="Write the figures to this file as well; - is stdout.", metavar="FILE"),
    ] = None,
) -> None:
    """Time a program: median and spread over many calls, and where the time goes."""
    settings = {
        "ukernels": ukernels,
        "unroll_dispatch": unroll_dispatch,
        "winograd": winograd,
        "tune": tune,
        "pipeline": pass_pipeline,
    }
    request = Request(program, input or [], bindings(bind), runs, engine, threads, settings, json)
    if ablation:
        ablation_of(request)
    elif vs is not None:
        versus(request, vs, rounds)
    elif profile:
        layers_of(request)
    else:
        times_of(request)
