"""The public Python API; `mdsl/__init__.py` imports it when a name of it is first used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from mdsl import frontends
from mdsl.compiler.settings import Settings
from mdsl.compiler.source_cache import KeptSource
from mdsl.errors import MdslError, SyntaxError_
from mdsl.runtime.building import found, ready
from mdsl.runtime.executable import Executable
from mdsl.runtime.loading import check_engine, load
from mdsl.support.collector import collector_paused
from mdsl.target.target import Target

if TYPE_CHECKING:  # a program that is found compiled needs neither IR nor passes
    from onnx import ModelProto

    from mdsl.dialects.builtin import ModuleOp
    from mdsl.frontends.onnx import Source

Program = Union[str, os.PathLike[str], "ModuleOp", "ModelProto"]
"""A path (a string that ends in `.mir`, `.onnx` or `.mbc`), a text, a module, or an `onnx.ModelProto`."""


def compile(
    program: Program,
    *,
    engine: str = "vm",
    threads: int = 1,
    ukernels: bool = True,
    unroll_dispatch: int | None = None,
    winograd: bool = True,
    tune: bool = False,
    target: str | Target | None = None,
    pipeline: str | None = None,
    bind: Mapping[str, Any] | None = None,
) -> Executable:
    """Compiles a program on any level and makes it ready to be called.

    `engine`: "vm" interprets bytecode, "jit" compiles it as a whole, "reference" runs the program as written
    in NumPy. Without `ukernels` heavy work is scalar loops instead of micro-kernels; `unroll_dispatch` is
    the number of micro-kernels that one instruction issues; without `winograd` every 3x3 convolution is a
    plain sum of products; `tune` measures how each contraction is best tiled (see the passes of these names). `target` is
    the machine that code is made for, which this one must be able to execute (without `engine="reference"`).
    `pipeline` lists passes to run first, as `mdsl opt --pass-pipeline` takes them; the standard passes finish
    the lowering. `bind` has the sizes of `?` dimensions by name, and may have values of inputs, which the program takes
    no more; what it leaves open gets its size from the arguments of a call. A module is not altered. Raises MdslError.
    """
    settings = Settings(ukernels, unroll_dispatch, winograd, tune, target, pipeline, bind or {})
    return build(program, settings, engine, threads)


@collector_paused()
def build(program: Program, settings: Settings, engine: str = "vm", threads: int = 1) -> Executable:
    """As `compile` says. Raises MdslError."""
    check_engine(engine, threads)
    path = _path(program)
    if path is not None and path.suffix.lower() == ".mbc":
        settings.check_compiled(path)
        return load(path, engine=engine, threads=threads)
    source = None if path is None else KeptSource(path, settings)
    known = None if source is None else found(source, engine, threads)
    if known is not None:
        return known
    from mdsl.runtime.opened import opened

    return ready(opened(source_of(program), settings.bind), settings, engine, threads, source)


@collector_paused()
def parse(program: Program, name: str = "<text>") -> ModuleOp:
    """The verified module of a text, a `.mir` or an `.onnx` file or model, its parameters marked; of a module, a copy. Raises MdslError."""
    from mdsl.compiler.reading import module_of
    from mdsl.dialects.builtin import ModuleOp

    source = source_of(program, name)
    if isinstance(source, ModuleOp) and source is program:
        return source.clone()
    return module_of(source, {}, weights=True)[0]


def source_of(program: Program, name: str = "<text>") -> ModuleOp | Source:
    """A module, or a model that is yet to be imported. Raises MdslError."""
    from mdsl.compiler.reading import read
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.syntax.parser import parse as parse_text
    from mdsl.syntax.resources import check_names

    if isinstance(program, ModuleOp):
        check_names(program)
        return program
    path = _path(program)
    if path is not None:
        return read(path)
    if not isinstance(program, str):
        return frontends.of_model(program)
    try:
        return parse_text(program, name)
    except SyntaxError_:
        if program and not re.search(r"\s", program):  # no text of a program is a single word
            raise MdslError(
                f"{program}: error: neither a program's text nor the name of a program's file, which ends in "
                f"{', '.join(_SUFFIXES)}"
            ) from None
        raise


@collector_paused()
def opt(program: Program, pipeline: str, *, target: str | Target | None = None) -> ModuleOp:
    """A new module, on which the passes of `pipeline` ran: "tile{sizes=[8,32]},unroll-dispatch{factor=4}".

    A pass that needs a lower level than the program's gets it: the standard passes run first. Raises MdslError.
    """
    from mdsl.compiler.driver import context_of
    from mdsl.compiler.levels import level_of, plan
    from mdsl.compiler.pipeline import parse_pipeline, run_passes

    machine = Settings(target=target).machine()
    module = parse(program)
    steps, _ = plan(parse_pipeline(pipeline, "pipeline"), level_of(module))
    run_passes(module, [p for lowering, step in steps for p in (*lowering, step)], context_of(machine))
    return module


@collector_paused()
def grad(
    program: Program,
    wrt: str | int | Sequence[str | int] = (),
    *,
    loss: int = 0,
    seed: str = "",
    function: str = "",
) -> ModuleOp:
    """A new module whose function also returns gradients of its result number `loss`, after its results: one for each of
    `wrt`, called `grad_NAME`, with the shape and element type of what it is of.

    `wrt` has the names of arguments (or their numbers, from 0), constants or other values; by default it is every argument
    that is marked as a parameter, or else every one of floats. The loss is one number; of a larger result `seed="ones"` takes the sum of its elements, and with `seed="argument"` the function
    gets one more argument, the gradient of that result. `function` is `@main` or the only one unless named. See pass `autodiff`.
    Raises MdslError.
    """
    from mdsl.compiler.pipeline import run_passes
    from mdsl.passes.nn.autodiff import SEEDS, Autodiff

    names = [wrt] if isinstance(wrt, str | int) else wrt
    if seed not in SEEDS:
        raise MdslError(f"error: seed must be 'ones' or 'argument', got {seed!r}")
    if loss < 0:
        raise MdslError(f"error: loss must be a result's number, from 0, got {loss}")
    module = parse(program)
    run_passes(module, [Autodiff(tuple(map(str, names)), loss, seed, function)])
    return module


_SUFFIXES = (".mir", ".mbc", *frontends.SUFFIXES)


def _path(program: Program) -> Path | None:
    """The path that a program's source is, None for anything else."""
    if isinstance(program, str):
        return Path(program) if "\n" not in program and program.lower().endswith(_SUFFIXES) else None
    return Path(program) if isinstance(program, os.PathLike) else None
