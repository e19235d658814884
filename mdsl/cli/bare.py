"""Options that may stand without a value."""

from __future__ import annotations

from collections.abc import Mapping


def with_bare_values(args: list[str], values: Mapping[str, str]) -> list[str]:
    """The arguments, with the value that `values` has for each option that stands without one."""
    end = args.index("--") if "--" in args else len(args)
    return [f"{a}={values[a]}" if i < end and a in values else a for i, a in enumerate(args)]
