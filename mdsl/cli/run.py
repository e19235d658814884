"""`mdsl run`: run a program on inputs from files, numbers or chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, note
from mdsl.cli.load import Engine, ProgramFile, Threads, for_inputs, load_program
from mdsl.cli.progress import stoppable
from mdsl.cli.settings import takes_settings
from mdsl.files import replacing
from mdsl.settings import DEFAULT, Settings

if TYPE_CHECKING:
    import numpy as np

    from mdsl.executable import Executable


@takes_settings
def run(
    program: ProgramFile,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="NAME=x.npy, x.npz, 1x784xf32=0.5 or 1x784xf32=random; the name may be left out if there is one input.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the outputs to this .npz file.")
    ] = None,
    engine: Engine = "vm",
    threads: Threads = 1,
    settings: Settings = DEFAULT,
    seed: Annotated[int, typer.Option(help="Seed of random inputs.", min=0)] = 0,
) -> None:
    """Run a program and print its outputs."""
    from mdsl.cli.inputs import read_inputs
    from mdsl.signature import arrange, closed, describe

    check_output(output, program)
    executable = load_program(program, engine, threads, settings)
    specs = executable.inputs if input else closed(executable.inputs)
    texts = input or [f"{spec.name}={describe(spec)}=random" for spec in specs]
    if texts and not input:
        note(f"no --input: random numbers of seed {seed} for {', '.join(s.name for s in specs)}")
    inputs = arrange(specs, [], read_inputs(texts, specs, seed))
    executable = for_inputs(executable, inputs)
    with stoppable():
        results = executable(*inputs)
    arrays = list(results) if isinstance(results, tuple) else [results]
    if output is not None:
        _save(output, executable, arrays)
    else:
        _print(executable, arrays)


def _print(executable: Executable, arrays: list[np.ndarray]) -> None:
    import numpy as np

    from mdsl.signature import describe

    for spec, array in zip(executable.outputs, arrays, strict=True):
        text = np.array2string(
            array, threshold=64, edgeitems=3, precision=6, suppress_small=True, max_line_width=100
        )
        typer.echo(f"{spec.name}: {describe(spec)}\n{text}")


def _save(path: Path, executable: Executable, arrays: list[np.ndarray]) -> None:
    """As `np.savez` does, which has names of its own that no array may bear."""
    import zipfile

    import numpy as np

    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for spec, array in zip(executable.outputs, arrays, strict=True):
            with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
