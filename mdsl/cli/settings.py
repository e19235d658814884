"""The options of the commands that compile: one a setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from mdsl.settings import Settings

BindOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        help="The size of a '?' dimension; more than one: again, or after a comma.",
        metavar="NAME=SIZE",
    ),
]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each setting in place of its parameter `settings`."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    options = inspect.signature(_settings, eval_str=True).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        settings = _settings(**{name: given.pop(name) for name in options})
        command(settings=settings, **given)

    found = [
        p for parameter in own for p in (options.values() if parameter.name == "settings" else [parameter])
    ]
    called.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in found}
    return called


def _settings(
    ukernels: Annotated[
        bool,
        typer.Option("--ukernels/--no-ukernels", help="Micro-kernels for the heavy work, or scalar loops."),
    ] = True,
    unroll_dispatch: Annotated[
        int | None, typer.Option(help="Micro-kernels that one instruction issues.", metavar="N")
    ] = None,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd/--no-winograd",
            help="3x3 convolutions with fewer multiplications, rounded differently.",
        ),
    ] = True,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure how each contraction is best tiled, and remember it: a minute or more for a network, the first time.",
        ),
    ] = False,
    pass_pipeline: Annotated[
        str | None, typer.Option(help="Passes to run first, as 'mdsl opt' takes them.")
    ] = None,
    bind: BindOption = None,
) -> Settings:
    """The settings that the options give. Raises MdslError."""
    return Settings(ukernels, unroll_dispatch, winograd, tune, pipeline=pass_pipeline, bind=bindings(bind))


def bindings(texts: Sequence[str] | None) -> dict[str, int]:
    """The sizes that `--bind` options give. Raises MdslError."""
    if not texts:
        return {}
    from mdsl.passes.pipeline import read_sizes
    from mdsl.syntax.errors import MdslError

    found: dict[str, int] = {}
    for text in texts:
        try:
            sizes = dict(read_sizes(text))
        except ValueError:
            raise MdslError(f"error: --bind {text}: expected NAME=SIZE, such as batch=8") from None
        twice = [name for name in sizes if name in found]
        if twice:
            raise MdslError(f"error: --bind {text}: dimension '{twice[0]}' was given twice")
        found.update(sizes)
    return found
