"""math_ext: functions of one float that upstream's math has not, and that take less than what they could be composed of."""

from __future__ import annotations

from mdsl.dialects.math import Unary
from mdsl.ir.declare import define

Gelu = define(Unary, "math_ext.gelu", "x times the share of the normal distribution below x.")
