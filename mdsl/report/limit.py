"""`--rewrite-limit`: a pass that stops after some of its rewrites, as `mdsl bisect` runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.rewrites import Rewrites, counting
from mdsl.passes.base import Pass


class Limit(Hook):
    """Lets every pass that it watches do `rewrites` rewrites."""

    def __init__(self, rewrites: int) -> None:
        self.rewrites = rewrites

    def around(self, module: ModuleOp, step: Pass) -> AbstractContextManager[object]:
        return counting(Rewrites(self.rewrites))
