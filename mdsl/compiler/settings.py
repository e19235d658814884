"""How a program is compiled: what `mdsl.compile` takes by keyword and the commands as options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import index
from typing import TYPE_CHECKING, Any

from mdsl.errors import MdslError

if TYPE_CHECKING:  # the commands and the loading of compiled programs do without LLVM
    from mdsl.target.target import Target


class SettingsError(MdslError):
    """Settings, of these `names`, that cannot be what was asked for; `why` says so of them. The commands put their
    options for the names."""

    def __init__(self, names: Sequence[str], why: str, program: str = "") -> None:
        place = f"{program}: " if program else ""
        super().__init__(f"{place}error: {', '.join(names)} {why}")
        self.names, self.why = names, why


class OpenDimsError(MdslError):
    """Dimensions, of these names, that have no size though they need one; `what` says for what. `example` is an input
    with such sizes, as `--input` takes it."""

    def __init__(self, dims: Sequence[str], what: str = "", example: str = "") -> None:
        sizes = ", ".join(f"{name!r}: ..." for name in dims)
        super().__init__(f"error: {what}{self.missing(dims)} (in Python: bind={{{sizes}}})")
        self.dims, self.what, self.example = dims, what, example

    @staticmethod
    def missing(dims: Sequence[str]) -> str:
        """What a user must do, on the command line."""
        listed = ", ".join(f"'{name}'" for name in dims)
        none = f"dimensions {listed} have no size" if len(dims) > 1 else f"dimension {listed} has no size"
        return f"{none}; give it with {' '.join(f'--bind {name}=...' for name in dims)}"


@dataclass(frozen=True)
class Settings:
    """What can be chosen. Raises MdslError for an `unroll_dispatch` that is no integer from 1, and for a `bind` that
    is no mapping of names to integers."""

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

    bind: Mapping[str, Any] = field(default_factory=dict)
    """The sizes of `?` dimensions, and values of inputs, by name; they are kept in the order of the names."""

    def __post_init__(self) -> None:
        if self.unroll_dispatch is not None and not _is_positive(self.unroll_dispatch):
            raise SettingsError(
                ["unroll_dispatch"], f"must be an integer, at least 1, got {self.unroll_dispatch!r}"
            )
        if not isinstance(self.bind, Mapping) or not all(isinstance(name, str) for name in self.bind):
            raise SettingsError(["bind"], f"must be sizes by name, such as {{'batch': 8}}, got {self.bind!r}")
        sizes = {name: _number(name, given) for name, given in sorted(self.bind.items())}
        object.__setattr__(self, "bind", sizes)

    def machine(self) -> Target:
        """The target. Raises MdslError for a name that there is not."""
        from mdsl.target.target import Target, TargetError

        if isinstance(self.target, Target):
            return self.target
        try:
            return Target.parse(self.target or "host")
        except TargetError as error:
            raise MdslError(f"error: {error}") from None

    def running(self) -> Target | None:
        """The target that is asked for, to run its code here; None for this machine. Raises MdslError where it cannot."""
        if self.target is None:
            return None
        from mdsl.codegen.native import check_executable
        from mdsl.target.target import TargetError

        target = self.machine()
        try:
            check_executable(target)
        except TargetError as error:
            raise MdslError(f"error: {error}") from None
        return target

    def chosen(self) -> list[str]:
        """The names of the settings that differ from their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(DEFAULT, f.name)]

    def key(self) -> str:
        """All but the target, whose name does not say what it is, as text for a cache key."""
        return repr(replace(self, target=None))

    def check_compiled(self, path: str | os.PathLike[str]) -> None:
        """Raises SettingsError if any was chosen: the file `path` holds a program that is compiled."""
        late = self.chosen()
        if late:
            raise SettingsError(late, "cannot be chosen any more: the program is compiled", os.fspath(path))


def _number(name: str, given: Any) -> Any:
    """What `name` is bound to: a number, or several in nested tuples. Raises MdslError."""
    if isinstance(given, list | tuple):
        return tuple(_number(name, part) for part in given)
    listed = getattr(given, "tolist", None)  # NumPy's
    if listed is not None and getattr(given, "ndim", 0):
        return _number(name, listed())
    if isinstance(given, bool | float):
        return given
    try:
        return index(given)
    except TypeError:
        if listed is not None and isinstance(listed(), bool | float):
            return listed()
        raise MdslError(f"error: the size of dimension '{name}' must be an integer, got {given!r}") from None


def _is_positive(number: object) -> bool:
    try:
        return index(number) > 0  # type: ignore[arg-type]
    except TypeError:
        return False


DEFAULT = Settings()
