"""Pass pipelines: from text to passes, and running them with whatever watches.

tile{sizes=[8,32]},unroll-dispatch{factor=4}      as `--pass-pipeline` takes it
--tile=8x32  --unroll-dispatch=4  --fuse          as flags: a bare value is the pass's first option
"""

from __future__ import annotations

import re
import time
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import fields
from typing import Any, ClassVar

from mdsl.compiler.history import History
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError, Source, SyntaxError_, nearest
from mdsl.ir.core import VerifyError
from mdsl.ir.rewrites import LimitReached
from mdsl.ir.verifier import verify
from mdsl.passes import pass_named, pass_names
from mdsl.passes.any.canonicalize import is_droppable
from mdsl.passes.base import Context, Pass, functions

# Reading --------------------------------------------------------------------------------------------------


def parse_pipeline(text: str, name: str = "--pass-pipeline") -> list[Pass]:
    """The passes that `text` lists, separated by commas. Raises MdslError with a caret under what is wrong."""
    return _Reader(Source(name, text)).pipeline()


def parse_flag(flag: str) -> Pass:
    """The pass that one command-line flag asks for: `--tile=8x32`, `--tile={sizes=[8,32]}`, `--fuse`."""
    return _Reader(Source("command line", flag)).flag()


_VALUE = r"\[[^\]]*\]|[^\s,{}\[\]]+"
"""An option's value: a list in brackets, or what goes on to the next separator."""


class _Reader:
    """Reads a pipeline from left to right; every error stands at the character that it is about."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.at = 0

    def error(self, message: str, at: int, length: int = 1) -> SyntaxError_:
        return SyntaxError_(message, self.source, at, length)

    def accept(self, pattern: str) -> str | None:
        """The text at the cursor that matches `pattern`, and moves past it."""
        match = re.compile(rf"\s*({pattern})").match(self.source.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[1]

    def end(self) -> None:
        if self.accept("$") is None:
            raise self.error(f"unexpected '{self.source.text[self.at]}'", self.at)

    def pipeline(self) -> list[Pass]:
        found = [self.one()]
        while self.accept(","):
            found.append(self.one())
        self.end()
        return found

    def one(self) -> Pass:
        declaration, start = self.declaration()
        options: dict[str, Any] = {}
        if self.accept(r"\{"):
            options = self.options(declaration)
        return self.build(declaration, options, start)

    def flag(self) -> Pass:
        self.accept("--")
        declaration, start = self.declaration()
        options: dict[str, Any] = {}
        if self.accept("="):
            if self.accept(r"\{"):
                options = self.options(declaration)
            elif _takes_names(declaration):
                options = self.first_option(declaration, r".*")
            elif re.match(r"[\w-]+=", self.source.text[self.at :]):
                options = self.options(declaration, closing="$")
            else:
                options = self.first_option(declaration)
        self.end()
        return self.build(declaration, options, start)

    def declaration(self) -> tuple[type[Pass], int]:
        name = self.accept(r"[\w-]*") or ""
        start = self.at - len(name)
        declaration = pass_named(name)
        if declaration is None:
            names = pass_names()
            hint = nearest(name, names) or f"; passes: {', '.join(names)}"
            raise self.error(f"unknown pass '{name}'{hint}", start, len(name))
        return declaration, start

    def options(self, declaration: type[Pass], closing: str = r"\}") -> dict[str, Any]:
        """`name=value` separated by commas or spaces, up to `closing`."""
        found: dict[str, Any] = {}
        while self.accept(closing) is None:
            name = self.accept(r"[\w-]+")
            if name is None:
                raise self.error(
                    f"expected an option of pass '{declaration.name}' ({_known(declaration)})", self.at
                )
            start = self.at - len(name)
            key = name.replace("-", "_")
            if key not in option_types(declaration):
                hint = nearest(name, list(option_types(declaration)))
                message = f"pass '{declaration.name}' has no option '{name}'{hint} ({_known(declaration)})"
                raise self.error(message, start, len(name))
            if self.accept("=") is None:
                raise self.error(f"expected '=' after '{name}'", self.at)
            found[key] = self.value(declaration, key)
            self.accept(",")
        return found

    def first_option(self, declaration: type[Pass], pattern: str = _VALUE) -> dict[str, Any]:
        names = list(option_types(declaration))
        if not names:
            raise self.error(
                f"pass '{declaration.name}' takes no options", self.at, len(self.source.text) - self.at
            )
        return {names[0]: self.value(declaration, names[0], pattern)}

    def value(self, declaration: type[Pass], name: str, pattern: str = _VALUE) -> Any:
        text = self.accept(pattern)
        if text is None:
            raise self.error(f"expected a value for option '{name}'", self.at)
        wanted = option_types(declaration)[name]
        try:
            return _READERS[wanted][0](text)
        except ValueError:
            message = (
                f"option '{name}' of pass '{declaration.name}' takes {_READERS[wanted][1]}, got '{text}'"
            )
            raise self.error(message, self.at - len(text), len(text)) from None

    def build(self, declaration: type[Pass], options: dict[str, Any], start: int) -> Pass:
        try:
            return declaration(**options)
        except ValueError as error:
            raise self.error(f"pass '{declaration.name}': {error}", start, len(declaration.name)) from None


def option_types(declaration: type[Pass]) -> dict[str, Any]:
    """The pass's options and the type of each, in order of declaration."""
    hints = typing.get_type_hints(declaration)
    return {f.name: _plain(hints[f.name]) for f in fields(declaration)}


def _plain(hint: Any) -> Any:
    """`int | None` is read as an int: None is what an absent option means."""
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def _takes_names(declaration: type[Pass]) -> bool:
    """True if the pass's first option is numbers by name: its flag's `name=` is no option's name."""
    return next(iter(option_types(declaration).values()), None) == tuple[tuple[str, int], ...]


def _known(declaration: type[Pass]) -> str:
    names = ", ".join(option_types(declaration))
    return f"options: {names}" if names else "it takes none"


def _read_bool(text: str) -> bool:
    if text not in ("true", "false", "1", "0"):
        raise ValueError
    return text in ("true", "1")


def _read_ints(text: str) -> tuple[int, ...]:
    numbers = text.strip("[]").strip()
    return tuple(int(n) for n in re.split(r"\s*[x,]\s*|\s+", numbers)) if numbers else ()


def _read_numbers(text: str) -> tuple[float, ...]:
    """`[1,0.5]`; a single number needs no brackets. Raises ValueError."""
    return tuple(map(float, _read_names(text)))


def _read_names(text: str) -> tuple[str, ...]:
    """`[x,weight]`; a single name needs no brackets. Raises ValueError."""
    names = text[1:-1] if text.startswith("[") else text
    found = tuple(name.strip() for name in names.split(",")) if names.strip() else ()
    if not all(found):
        raise ValueError
    return found


def read_sizes(text: str) -> tuple[tuple[str, int], ...]:
    """`batch=8,seq=128`. Raises ValueError."""
    pairs = [item.rpartition("=") for item in re.split(r"\s*,\s*", text.strip("[]").strip())]
    if any(not name for name, _, _ in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError
    return tuple((name.strip(), int(number)) for name, _, number in pairs)


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: (_read_bool, "true or false"),
    str: (str, "a word"),
    tuple[tuple[str, int], ...]: (read_sizes, "each name once with a number (batch=8,seq=128)"),
    tuple[str, ...]: (_read_names, "names ([x,weight])"),
    tuple[float, ...]: (_read_numbers, "numbers ([1,0.5])"),
    tuple[int, ...]: (_read_ints, "integers ([8,32] or 8x32)"),
}
"""How a value of each option type is read, and what it is called in a message."""


# Running --------------------------------------------------------------------------------------------------


class Hook:
    """Watches a pipeline: `start` is called in front of it, `before` and `after` around every pass."""

    reads: ClassVar[bool] = True
    """Whether it looks at the program, which then has names and a history as for one who reads it."""

    def start(self, module: ModuleOp) -> None:
        """Called before the first pass runs. From one pass to the next nothing else alters the program."""

    def before(self, module: ModuleOp, step: Pass) -> None:
        """Called before `step` runs."""

    def around(self, module: ModuleOp, step: Pass) -> AbstractContextManager[object]:
        """What `step` runs in, and the verifier after it: an error of theirs passes through it."""
        return nullcontext()

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        """Called after `step` ran, for that long, and the result was verified."""


class PassFailure(MdslError):
    """A pass that could not do its work, or that left an invalid program (`invalid`)."""

    def __init__(self, step: Pass, error: VerifyError, invalid: bool) -> None:
        what = f"pass '{step.name}' made an invalid program" if invalid else f"pass '{step.name}'"
        super().__init__(*error.lines(what))
        self.step = step
        self.invalid = invalid


def run_passes(
    module: ModuleOp,
    steps: Iterable[Pass],
    context: Context | None = None,
    *,
    hooks: Sequence[Hook] = (),
    verify_each: bool = True,
    consumed: bool = False,
) -> None:
    """Runs the passes on `module`, in place. Of a module that is `consumed`, nobody reads the text or the ops' history
    afterwards. Raises PassFailure, which names the pass."""
    context = context or Context()
    history = None if consumed and not any(hook.reads for hook in hooks) else History(module)
    if history:
        module.name_maps()
    for hook in hooks:
        hook.start(module)
    for step in steps:
        for hook in hooks:
            hook.before(module, step)
        names = {f.symbol: f.result_names() for f in functions(module)}
        with ExitStack() as surroundings:
            for hook in hooks:
                surroundings.enter_context(hook.around(module, step))
            start = time.perf_counter()
            _guarded(step, lambda step=step: run_pass(step, module, context), invalid=False)
            for function in functions(module):
                before = names.get(function.symbol, [])
                if not step.renews and len(before) == len(function.type.results):
                    function.keep_result_names(before, in_text=history is not None)
            seconds = time.perf_counter() - start
            if history:  # names here, so that aliases do not depend on what has been printed
                module.name_maps(history.record(step.name))
            if verify_each:
                _guarded(step, lambda: verify(module), invalid=True)
        for hook in hooks:
            hook.after(module, step, seconds)


def run_pass(step: Pass, module: ModuleOp, context: Context) -> None:
    """Runs one pass. Of one that is stopped after a number of rewrites, what it has built for the next goes."""
    try:
        step.run(module, context)
    except LimitReached as stop:
        for op in reversed(list(module.walk())):
            made = op.results and all(r.serial >= stop.since and not r.users for r in op.results)
            if op.block is not None and made and is_droppable(op):
                op.erase()


def _guarded(step: Pass, action: Callable[[], None], *, invalid: bool) -> None:
    try:
        action()
    except VerifyError as error:
        raise PassFailure(step, error, invalid) from error
    except MdslError:
        raise
    except Exception as error:  # ours, to be seen with its traceback, which is long
        error.add_note(f"in pass '{step.name}': --crash-reproducer=FILE writes the program before it")
        raise
