"""A figure: a name, a number, and the bound that it must keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan


@dataclass(frozen=True)
class Figure:
    """One figure, the bound that it must keep (`at most` or `at least`; None: for information), and what it was
    computed from. Its value is NaN if it could not be measured; the detail says why."""

    name: str
    value: float
    unit: str
    bound: str = ""
    limit: float | None = None
    detail: str = ""

    @property
    def kept(self) -> bool | None:
        if self.limit is None or isnan(self.value):
            return None
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit

    @property
    def measured(self) -> str:
        return "not measured" if isnan(self.value) else f"{self.value:.3g} {self.unit}"

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return "" if self.limit is None else f"{self.bound} {self.limit:g} {self.unit}".rstrip()

    def to_json(self) -> dict[str, object]:
        value = None if isnan(self.value) else self.value
        return {**asdict(self), "value": value, "kept": self.kept}
