"""The command-line options that make `Settings`: one option a setting."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

import typer

from mdsl.cli.own import LoadOption
from mdsl.compiler.settings import DEFAULT, OpenDimsError, Settings, SettingsError
from mdsl.errors import MdslError

BindOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        help="The size of a '?' dimension, or the value of an input (k=3, shape=[2,8]), which is then given no more; more than "
        "one: again, or after a comma.",
        metavar="NAME=SIZE",
    ),
]

Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd/--no-winograd",
        help="3x3 convolutions with fewer multiplications, rounded differently; NaN, infinity and inputs above 1e36 spread over a tile.",
    ),
]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each setting in place of its parameter `settings`, whose errors name options
    and the file in its parameter `program`."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    options = inspect.signature(_settings, eval_str=True).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        with _as_options():
            settings = _settings(**{name: given.pop(name) for name in options})
        file = "<stdin>" if given["program"] == "-" else given["program"]
        with _as_options(f"{file}: ", takes_inputs="input" in given):
            command(settings=settings, **given)

    found = [
        p for parameter in own for p in (options.values() if parameter.name == "settings" else [parameter])
    ]
    called.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in found}
    return called


@contextmanager
def _as_options(place: str = "", takes_inputs: bool = False) -> Generator[None, None, None]:
    """Errors about settings as a user of options understands them."""
    try:
        yield
    except SettingsError as error:
        raise MdslError(f"{place}error: {', '.join(map(option_of, error.names))} {error.why}") from None
    except OpenDimsError as error:
        by_input = takes_inputs and error.example
        inputs = f", or with an input that has it: --input {error.example}" if by_input else ""
        raise MdslError(f"{place}error: {error.what}{error.missing(error.dims)}{inputs}") from None


def option_of(setting: str) -> str:
    """The option that takes a setting from its default."""
    if setting == "pipeline":
        return "--pass-pipeline"
    return f"--{'no-' if getattr(DEFAULT, setting) is True else ''}{setting.replace('_', '-')}"


def _settings(
    ukernels: Annotated[
        bool,
        typer.Option("--ukernels/--no-ukernels", help="Micro-kernels for the heavy work, or scalar loops."),
    ] = True,
    unroll_dispatch: Annotated[
        int | None, typer.Option(help="Micro-kernels that one instruction issues.", metavar="N")
    ] = None,
    winograd: Winograd = True,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure how each contraction is best tiled, and remember it: a minute or more for a network, the first time.",
        ),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(help="The machine to make code for: host, avx512, avx2, neon, ...", metavar="NAME"),
    ] = None,
    pass_pipeline: Annotated[
        str | None, typer.Option(help="Passes to run first, as 'mdsl opt' takes them.")
    ] = None,
    bind: BindOption = None,
    load: LoadOption = None,
) -> Settings:
    """The settings that the options give; passes of one's own are loaded. Raises MdslError."""
    if load:
        from mdsl.compiler.own_passes import load_passes

        for path in load:
            load_passes(path)
    if pass_pipeline is not None:
        from mdsl.compiler.pipeline import parse_pipeline

        parse_pipeline(pass_pipeline)  # an error shows the option's text
    return Settings(ukernels, unroll_dispatch, winograd, tune, target, pass_pipeline, bindings(bind))


def bindings(texts: Sequence[str] | None) -> dict[str, Any]:
    """The sizes, and values of inputs, that `--bind` options give. Raises MdslError."""
    found: dict[str, Any] = {}
    for text in texts or ():
        for item in re.split(r",(?![^\[]*\])", text):  # not those within a list
            name, _, value = item.rpartition("=")
            try:
                number = json.loads(value)
            except (ValueError, RecursionError):
                number = None
            if not name.strip() or not isinstance(number, int | float | list):
                raise MdslError(
                    f"error: --bind {text}: expected NAME=SIZE, such as batch=8, or an input's value, k=3 or shape=[2,8]"
                )
            if name.strip() in found:
                raise MdslError(f"error: --bind {text}: dimension '{name.strip()}' was given twice")
            found[name.strip()] = number
    return found
