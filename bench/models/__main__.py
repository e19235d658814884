"""`python -m bench.models NAME -o FILE`: a network with random weights as an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from mdsl.cli.errors import shown
from mdsl.frontends.onnx.model import require_onnx
from mdsl.support.files import replacing

with shown():
    require_onnx()

from onnx import ModelProto

from bench.models.attention import minilm, swin
from bench.models.encoder import encoder
from bench.models.light import LIGHT, light
from bench.models.mixing import convnext, mixer
from bench.models.mobile import mobilenet_v2, mobilenet_v4
from bench.models.yolo import yolo

BUILDERS: dict[str, Callable[..., ModelProto]] = {
    **{name: partial(light, name) for name in LIGHT},
    **{f.__name__: f for f in (mobilenet_v2, mobilenet_v4, convnext, mixer, swin, minilm, encoder, yolo)},
}
SIZES = ("size", "sequence")
"""What builders call the number of `--size`."""


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILDERS)}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    size: Annotated[
        int | None, typer.Option(help="Pixels of an image's side; the length of a sequence.", min=1)
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of an image.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.", min=0)] = 0,
) -> None:
    """Write a network with random weights as an ONNX file."""
    if name not in BUILDERS:
        raise typer.BadParameter(f"no model '{name}': {', '.join(BUILDERS)}")
    build = BUILDERS[name]
    takes = signature(build).parameters
    given = {"channels": channels, "batch": batch, next(n for n in SIZES if n in takes): size}
    chosen = {option: value for option, value in given.items() if value is not None}
    if unknown := chosen.keys() - takes.keys():
        raise typer.BadParameter(f"{name} has no choice of --{', --'.join(sorted(unknown))}")
    model = build(seed=seed, **chosen)
    with shown(), replacing(output) as file:
        file.write(model.SerializeToString())


if __name__ == "__main__":
    typer.run(main)
