"""How a program is compiled: what `mdsl.compile` takes by keyword and the commands as options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import index
from typing import TYPE_CHECKING

from mdsl.syntax.errors import MdslError

if TYPE_CHECKING:  # the commands and the loading of compiled programs do without LLVM
    from mdsl.codegen.target import Target


@dataclass(frozen=True)
class Settings:
    """What can be chosen. Raises MdslError for an `unroll_dispatch` below 1 and a size that is no integer."""

    ukernels: bool = True
    """Heavy work becomes micro-kernels; without them it is scalar loops."""

    unroll_dispatch: int | None = None
    """How many micro-kernels one instruction issues, 1 at least; None leaves the pass of this name out."""

    winograd: bool = True
    """3x3 convolutions may take fewer multiplications; else each is a plain sum of products."""

    tune: bool = False
    """Measure how each contraction is best tiled, instead of estimating it."""

    target: str | Target | None = None
    """The machine to compile for, None for this one."""

    pipeline: str | None = None
    """Passes to run first, as `mdsl opt --pass-pipeline` takes them."""

    bind: Mapping[str, int] = field(default_factory=dict)
    """The sizes of `?` dimensions by name; they are kept in the order of the names."""

    def __post_init__(self) -> None:
        if self.unroll_dispatch is not None and self.unroll_dispatch < 1:
            raise MdslError(f"error: unroll_dispatch must be at least 1, got {self.unroll_dispatch}")
        sizes: dict[str, int] = {}
        for name, size in sorted(self.bind.items()):
            try:
                sizes[name] = index(size)
            except TypeError:
                raise MdslError(
                    f"error: the size of dimension '{name}' must be an integer, got {size!r}"
                ) from None
        object.__setattr__(self, "bind", sizes)

    def machine(self) -> Target:
        """The target. Raises MdslError for a name that there is not."""
        from mdsl.codegen.target import Target, TargetError

        if isinstance(self.target, Target):
            return self.target
        try:
            return Target.parse(self.target or "host")
        except TargetError as error:
            raise MdslError(f"error: {error}") from None

    def chosen(self) -> list[str]:
        """The names of the settings that differ from their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(DEFAULT, f.name)]

    def key(self) -> str:
        """All but the target, whose name does not say what it is, as text for a cache key."""
        return repr(replace(self, target=None))

    def check_compiled(self, path: str | os.PathLike[str]) -> None:
        """Raises MdslError if any was chosen: the file `path` holds a program that is compiled."""
        late = ", ".join(self.chosen())
        if late:
            raise MdslError(
                f"{os.fspath(path)}: error: {late} cannot be chosen any more: the program is compiled"
            )


DEFAULT = Settings()
