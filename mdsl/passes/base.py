"""What a pass is: a frozen dataclass whose fields are its options and whose `run` rewrites a module in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.support.progress import tell
from mdsl.target.target import Target, TargetError

LEVELS = ("nn", "linalg", "tiled", "dispatch", "buffers", "kernels", "vm")
"""The levels a program passes through, from a graph of tensor ops to bytecode's instructions."""


def option(
    default: Any, help: str, least: float | None = None, most: float | None = None, below: float | None = None
) -> Any:
    """A pass's option: a dataclass field with its documentation and, for numbers, the smallest and the largest one allowed, or
    the one that they stay below. Numbers are finite.
    Types: int, float, bool, str, tuple[int, ...], tuple[float, ...], tuple[str, ...], tuple[tuple[str, int], ...]
    (numbers by name)."""
    return field(default=default, metadata={"help": help, "least": least, "most": most, "below": below})


Measure = Callable[[ModuleOp, Sequence[str], int], list[float]]
"""Takes a program, pipelines, and how many rounds to time; gives the least seconds of a call of the program that each
pipeline begins to lower. Raises TargetError where the target's code cannot run."""


def _nothing_runs(program: ModuleOp, pipelines: Sequence[str], rounds: int) -> list[float]:
    raise TargetError("nothing can be timed here")


@dataclass(frozen=True)
class Context:
    """What a pass is given beside the program: the machine that it compiles for, whom to tell how far it is, and
    means to time programs, which lie above the passes."""

    target: Target = field(default_factory=Target.host)
    progress: Callable[[str], None] = tell
    measure: Measure = _nothing_runs


@dataclass(frozen=True)
class Pass:
    """Base of passes. The class docstring's first line is the pass's help; it shows IR before and after.

    `level` is the level that the pass works on: `mdsl opt` lowers a program that lies above it first.
    None: any level. `leads_to` is the level that it takes the program to, if that is another.
    """

    name: ClassVar[str]
    level: ClassVar[str | None] = None
    leads_to: ClassVar[str | None] = None
    appends: ClassVar[bool] = False
    """Whether the pass adds arguments and results, behind those that the program has, which stay what they are."""
    subject: ClassVar[str] = ""
    """What the pass looks for, in the singular, for `there is no ...`: of every one that it finds it makes a remark, or
    changes it."""

    renews: ClassVar[bool] = False
    """Whether the pass makes another program: with results of its own, or of other arguments."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            for wanted, holds in _bounds(f.metadata):
                if not all(holds(n) for n in _numbers(value)):
                    raise ValueError(f"option '{f.name}' must be {wanted}, got {_spell(value)}")

    def run(self, module: ModuleOp, context: Context) -> None:
        """Rewrites `module`. Raises VerifyError where the program cannot be lowered."""
        raise AssertionError(f"pass {self.name} has no run method")

    def __str__(self) -> str:
        """As `--pass-pipeline` writes it, with the options that differ from their defaults."""
        changed = [
            f"{f.name}={_spell(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


def functions(module: ModuleOp) -> list[FuncOp]:
    """The functions of a program, kernels not among them."""
    return [op for op in module.body.ops if isinstance(op, FuncOp)]


def _bounds(declared: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[float], bool]]]:
    """What the numbers of an option must be, in words and as a test."""
    least, most, below = (declared.get(name) for name in ("least", "most", "below"))
    yield "finite", lambda n: isinstance(n, int) or isfinite(n)
    if least is not None:
        yield f"at least {least}", lambda n: n >= least
    if most is not None:
        yield f"at most {most}", lambda n: n <= most
    if below is not None:
        yield f"below {below}", lambda n: n < below


def _numbers(value: object) -> list[float]:
    """The numbers in an option's value."""
    if not isinstance(value, tuple):
        return [value] if isinstance(value, int | float) else []
    return [n for item in value for n in _numbers(item)]


def _spell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, tuple):
        return str(value)
    items = [f"{i[0]}={i[1]}" if isinstance(i, tuple) else str(i) for i in value]
    return f"[{','.join(items)}]"
