"""How the learning rate goes over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mdsl.errors import MdslError, nearest


@dataclass(frozen=True)
class Schedule:
    """The rate of each step, of which there will be `steps`: it grows for `warmup` steps, then follows `kind`.

    constant; linear and cosine fall to 0 (Loshchilov, Hutter: SGDR, 2017); step: times `factor` after each `every` steps.
    Raises MdslError for a kind that there is not, and for numbers that are negative or not finite.
    """

    rate: float
    steps: int
    kind: str = "constant"
    warmup: int = 0
    every: int = 1000
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = nearest(self.kind, list(KINDS))
            raise MdslError(f"error: unknown schedule '{self.kind}'{hint} (schedules: {', '.join(KINDS)})")
        if self.every < 1 or self.warmup < 0:
            raise MdslError("error: a schedule's steps must be positive")
        check_rate(self.rate)
        check_rate(self.factor, "the decay of the learning rate")

    def __call__(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = step - self.warmup
        return self.rate * KINDS[self.kind](self, done, done / max(1, self.steps - self.warmup))


def check_rate(number: float, what: str = "the learning rate") -> None:
    """Raises MdslError for what is no finite number from 0 on."""
    if not math.isfinite(number) or number < 0:
        raise MdslError(f"error: {what} must be a finite number from 0 on, got {number}")


KINDS: dict[str, Callable[[Schedule, int, float], float]] = {
    "constant": lambda s, step, share: 1.0,
    "linear": lambda s, step, share: max(0.0, 1 - share),
    "cosine": lambda s, step, share: (1 + math.cos(math.pi * min(1.0, share))) / 2,
    "step": lambda s, step, share: s.factor ** (step // s.every),
}
"""By name: the share of the rate after so many steps, and such a share of all."""
