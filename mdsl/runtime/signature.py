"""Checking a call's arrays against the program's signature, putting them in order, and reading open sizes off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdsl.bytecode.module import DTYPES
from mdsl.compiler.entry import Spec, describe
from mdsl.errors import MdslError, nearest


def sizes_of(specs: Sequence[Spec], arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The sizes of the open dimensions, as arrays that `checked` let pass have them. Raises MdslError if two
    differ."""
    found: dict[str, tuple[int, str]] = {}
    for spec, array in zip(specs, arrays, strict=True):
        for name, size in zip(spec.shape, array.shape, strict=True):
            if not isinstance(name, str):
                continue
            known, where = found.setdefault(name, (size, spec.name))
            if known != size:
                raise MdslError(
                    f"error: dimension '{name}' is {known} in input '{where}' and {size} in input '{spec.name}'"
                )
    return {name: size for name, (size, _) in found.items()}


def fits(spec: Spec, shape: Sequence[int]) -> bool:
    """True if an array of `shape` can be what `spec` says."""
    return len(shape) == len(spec.shape) and all(
        not isinstance(w, int) or w == s for w, s in zip(spec.shape, shape, strict=True)
    )


def checked(array: object, spec: Spec, takes: str) -> np.ndarray:
    """`array`, contiguous and aligned, if it fits `spec`. Raises MdslError naming the input, and telling what the program
    `takes` where something else than numbers is given.

    Nothing is converted that could lose precision or hide a mistake: the dtype must be the spec's.
    """
    wanted = DTYPES[spec.dtype]
    exact = isinstance(array, int) or (isinstance(array, float) and wanted.kind not in "iub")
    try:
        found = np.asarray(array, wanted if exact and not spec.shape else None)
    except ValueError:  # lists of different lengths
        found = np.empty(0, np.object_)
    if found.dtype.kind in "OUS":
        raise MdslError(
            f"error: input '{spec.name}' must be {describe(spec)}, got a {type(array).__name__}; {takes}"
        )
    if found.dtype != wanted:
        hint = f"; convert it with .astype('{wanted}')"
        raise MdslError(
            f"error: input '{spec.name}' must be {describe(spec)}, got an array of dtype {found.dtype}{hint}"
        )
    if not fits(spec, found.shape):
        got = "x".join(map(str, found.shape)) or "a scalar"
        raise MdslError(f"error: input '{spec.name}' must be {describe(spec)}, got an array of shape {got}")
    return np.require(found, requirements=["C", "A"])


def arrange(
    specs: Sequence[Spec], positional: Sequence[object], named: Mapping[str, object]
) -> list[np.ndarray]:
    """The arrays of a call in the order of `specs`, checked. Raises MdslError."""
    names = [spec.name for spec in specs]
    takes = f"the program takes {', '.join(f'{s.name}: {describe(s)}' for s in specs) or 'no inputs'}"
    if len(positional) > len(specs):
        raise MdslError(f"error: got {len(positional)} inputs; {takes}")
    given = dict(zip(names, positional, strict=False))
    for name, array in named.items():
        if name not in names:
            raise MdslError(f"error: no input '{name}'{nearest(name, names)}; {takes}")
        if name in given:
            raise MdslError(f"error: input '{name}' was given twice")
        given[name] = array
    missing = [name for name in names if name not in given]
    if missing:
        raise MdslError(f"error: input '{missing[0]}' is missing; {takes}")
    return [checked(given[spec.name], spec, takes) for spec in specs]
