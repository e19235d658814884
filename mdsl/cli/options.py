"""Options that several commands have: a command names the group of them as one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Group = TypeVar("Group")


def takes(
    parameter: str, group: Callable[..., Group]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts the parameters of `group` in the place of the command's `parameter`, which gets what `group` makes of them."""
    options = inspect.signature(group, eval_str=True).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def called(**values: Any) -> None:
            made = group(**{name: values.pop(name) for name in options})
            command(**values, **{parameter: made})

        given = {name: option.replace(kind=option.KEYWORD_ONLY) for name, option in options.items()}
        found = [p for one in own for p in (given.values() if one.name == parameter else [one])]
        called.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in found}
        return called

    return decorate
