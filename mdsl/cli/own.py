"""`--load`: passes of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdsl.errors import MdslError

LoadOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--load",
        help="A Python file with passes of your own, which is run; more than one: again.",
        metavar="FILE.py",
    ),
]


def load_named(args: list[str], taken: list[str]) -> None:
    """Loads the files that `--load` names, before the flags of their passes are looked for. Raises MdslError, also for a pass
    whose flag would be one of those `taken`."""
    end = args.index("--") if "--" in args else len(args)
    pairs = zip(args[:end], [*args[1:end], ""], strict=True)
    files = [b if a == "--load" else a.partition("=")[2] for a, b in pairs if a.split("=")[0] == "--load"]
    if not all(files):
        raise MdslError("error: --load takes a Python file: --load my_pass.py")
    for file in files:
        from mdsl.compiler.own_passes import load_passes

        for found in load_passes(Path(file)):
            if f"--{found.name}" in taken:
                raise MdslError(f"{file}: error: pass '{found.name}' is named as an option is")
