"""`mdsl run`: run a program on inputs from files, on given numbers or on random ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, is_passed_on, note, writing
from mdsl.cli.load import Engine, Inputs, Program, ProgramFile, Threads
from mdsl.cli.progress import stoppable
from mdsl.cli.settings import takes_settings
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.errors import MdslError
from mdsl.support.escapes import one_line

if TYPE_CHECKING:
    import numpy as np

    from mdsl.runtime.executable import Executable


@takes_settings
def run(
    program: ProgramFile,
    input: Inputs = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write the outputs to this file: .npz, by name, or .npy if there is one. They are not printed then.",
        ),
    ] = None,
    engine: Engine = "vm",
    threads: Threads = 1,
    fuel: Annotated[
        int | None,
        typer.Option(
            help="Stop with an error once the program is known to take more steps, of which each trip of a loop is one.",
            metavar="STEPS",
        ),
    ] = None,
    settings: Settings = DEFAULT,
    seed: Annotated[int, typer.Option(help="Seed of random inputs.", min=0)] = 0,
) -> None:
    """Run a program and print its outputs."""
    from mdsl.cli.inputs import read_inputs
    from mdsl.compiler.entry import closed, describe
    from mdsl.runtime.signature import arrange

    check_output(output, program)
    found = Program(program, engine, threads, settings, fuel)
    if output is not None:
        _check_form(output, len(found.outputs))
    texts = input or [f"{spec.name}={describe(spec)}=random" for spec in closed(found.inputs)]
    inputs = arrange(found.inputs, [], read_inputs(texts, found.inputs, seed))
    inputs = found.take(inputs)
    executable = found.executable()
    if texts and not input:
        note(f"no --input: random numbers of seed {seed} for {', '.join(s.name for s in found.inputs)}")
    with stoppable():
        results = executable(*inputs)
    arrays = list(results) if isinstance(results, tuple) else [results]
    if output is not None:
        _save(output, executable, arrays)
    else:
        _print(executable, arrays)


def _check_form(path: Path, outputs: int) -> None:
    """Raises MdslError for a name that does not say in which form so many outputs can be written."""
    suffix = path.suffix.lower()
    if suffix == ".npy" and outputs != 1:
        raise MdslError(
            f"{path}: error: a .npy file holds one array, and there are {outputs} outputs: use .npz"
        )
    if suffix not in (".npy", ".npz") and not is_passed_on(path):
        raise MdslError(f"{path}: error: outputs are written as .npz or, if there is one, as .npy")


def _print(executable: Executable, arrays: list[np.ndarray]) -> None:
    import numpy as np

    from mdsl.compiler.entry import describe

    for spec, array in zip(executable.outputs, arrays, strict=True):
        text = np.array2string(
            array, threshold=64, edgeitems=3, precision=6, suppress_small=True, max_line_width=100
        )
        typer.echo(f"{one_line(spec.name)}: {describe(spec)}\n{text}")


def _save(path: Path, executable: Executable, arrays: list[np.ndarray]) -> None:
    """An .npy or, as `np.savez` does, which has names of its own that no array may bear, an .npz."""
    import io
    import zipfile

    import numpy as np

    data = io.BytesIO()  # a pipe cannot be gone back in, as an archive is
    if path.suffix.lower() == ".npy":
        np.lib.format.write_array(data, arrays[0], allow_pickle=False)
    else:
        with zipfile.ZipFile(data, "w") as archive:
            for spec, array in zip(executable.outputs, arrays, strict=True):
                with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    with writing(path) as file:
        file.write(data.getbuffer())
