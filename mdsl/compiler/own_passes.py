"""Passes in files of the user's own. Loading runs a file's code: only what the user names is loaded."""

from __future__ import annotations

import dataclasses
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from mdsl.bytecode.module import BytecodeError
from mdsl.errors import MdslError, Source, SyntaxError_
from mdsl.ir.errors import VerifyError
from mdsl.ir.rewrites import LimitReached
from mdsl.passes import OWN, OWN_FILES, PASSES
from mdsl.passes.base import LEVELS, Pass
from mdsl.support.cache import key
from mdsl.target.target import TargetError

_loaded: dict[Path, list[type[Pass]]] = {}
"""What each file has defined."""


def files_of(passes: Iterable[Pass]) -> list[Path]:
    """The loaded files that define any of `passes`, each once."""
    kinds = {type(p) for p in passes}
    return [place for place, found in _loaded.items() if not kinds.isdisjoint(found)]


def load_passes(path: str | Path) -> list[type[Pass]]:
    """Runs the Python file `path` and registers the passes that it defines, under their names. A file that was loaded
    before is run again if it has changed since. Raises MdslError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MdslError(f"{path}: error: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MdslError(f"{path}: error: not a text file") from None
    place, digest = path.resolve(), key("own pass", text)
    if OWN_FILES.get(str(place)) == digest:
        return _loaded[place]
    source = Source(str(path), text)
    module = _run(source, place)
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Pass) and v.__module__ == module.__name__
    ]
    if not found:
        raise MdslError(f"{path}: error: the file defines no pass: no class that is a mdsl.passes.base.Pass")
    before = [p.name for p in _loaded.get(place, [])]
    for declaration in found:
        _check(declaration, source, before)
    for name in before:
        OWN.pop(name, None)
    for declaration in found:
        declaration.run = _shown(declaration.run, source, place)
        OWN[declaration.name] = declaration
    _loaded[place], OWN_FILES[str(place)] = found, digest
    return found


def _run(source: Source, place: Path) -> ModuleType:
    name = f"mdsl_own_{key(str(place))[:16]}"
    spec = spec_from_loader(name, None, origin=str(place))
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = str(place)
    sys.modules[name] = module  # dataclasses look there
    try:
        exec(compile(source.text, str(place), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise _located(error, source, place) from error
    return module


_USERS = (MdslError, VerifyError, BytecodeError, TargetError, LimitReached, MemoryError, RecursionError)
"""Errors that say themselves what is wrong with a program."""


def _shown(run: Callable[..., None], source: Source, place: Path) -> Callable[..., None]:
    """The pass's `run`, whose errors are its author's: they are shown with their place in the file."""

    @wraps(run)
    def located(self: Pass, *args: Any) -> None:
        try:
            run(self, *args)
        except _USERS:
            raise
        except (Exception, SystemExit) as error:
            raise _located(error, source, place, f"pass '{self.name}': ") from error

    return located


def _located(error: BaseException, source: Source, place: Path, what: str = "") -> MdslError:
    """The error at the last line of the file that has to do with it."""
    if isinstance(error, SyntaxError) and error.filename == str(place):
        line, column, message = error.lineno or 1, error.offset or 1, error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(place)]
        if not frames:
            return MdslError(f"{source.name}: error: {what}{type(error).__name__}: {error}")
        line, column = frames[-1].lineno or 1, (frames[-1].colno or 0) + 1
        message = f"{type(error).__name__}: {error}"
    starts = [0, *(m.end() for m in re.finditer("\n", source.text))]
    offset = starts[min(line, len(starts)) - 1] + column - 1
    return SyntaxError_(f"{what}{message}", source, offset)


def _check(declaration: type[Pass], source: Source, before: list[str]) -> None:
    """Raises MdslError for a class that is no whole pass."""
    at = re.search(rf"^class\s+{declaration.__name__}\b", source.text, re.MULTILINE)
    name: object = getattr(declaration, "name", None)
    why = None
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        why = 'a pass has a name of small letters, digits and dashes: name: ClassVar[str] = "my-pass"'
    elif name in PASSES or (name in OWN and name not in before):
        why = f"there is a pass '{name}' already"
    elif declaration.level not in (None, *LEVELS):
        why = f"'{declaration.level}' is no level: {', '.join(LEVELS)}"
    elif "__dataclass_fields__" not in vars(declaration) or not _is_frozen(declaration):
        why = "a pass is a dataclass: @dataclass(frozen=True)"
    elif declaration.run is Pass.run:
        why = "a pass has a method run(self, module, context)"
    elif any(f.default is dataclasses.MISSING for f in dataclasses.fields(declaration)):
        why = 'each option of a pass has a default: factor: int = option(4, "what it is")'
    if why is not None:
        raise SyntaxError_(f"class {declaration.__name__}: {why}", source, at.start() if at else 0)


def _is_frozen(declaration: type[Pass]) -> bool:
    return bool(getattr(declaration, "__dataclass_params__").frozen)  # noqa: B009
