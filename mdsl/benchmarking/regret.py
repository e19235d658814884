"""Regret: the time that the cost model's tiles give away against the best that were measured, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mdsl.compiler.driver import binding, boxing, context_of
from mdsl.compiler.levels import level_of, passes_before
from mdsl.compiler.pipeline import run_passes
from mdsl.compiler.settings import Settings
from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of
from mdsl.passes.base import Context
from mdsl.passes.linalg.tune import Tune, alone, measured, tiles_of, tunable
from mdsl.syntax.printer import print_module

CANDIDATES = 12
"""Tiles that are timed for each layer, in the model's order: more than `tune` tries."""

ROUNDS = 5


@dataclass(frozen=True)
class Tiling:
    """A contraction with its epilogue, alone on random numbers: the tile of the model and the fastest of the candidates.
    Times are seconds a call; `count` layers of the program are alike."""

    shape: str
    count: int
    chosen: tuple[int, ...]
    best: tuple[int, ...]
    seconds: float
    least: float

    @property
    def given_away(self) -> float:
        """Seconds a call of the program."""
        return self.count * (self.seconds - self.least)


@dataclass(frozen=True)
class Regret:
    """All contractions of a program."""

    tilings: tuple[Tiling, ...]

    @property
    def seconds(self) -> float:
        """With the model's tiles."""
        return sum(t.count * t.seconds for t in self.tilings)

    @property
    def share(self) -> float:
        """The part of the fastest tiles' time that the model's take beyond it."""
        least = sum(t.count * t.least for t in self.tilings)
        return self.seconds / least - 1 if least else 0.0

    def worst(self, number: int = 5) -> list[Tiling]:
        """Those that most is given away for."""
        return sorted(self.tilings, key=lambda t: -t.given_away)[:number]


def regret(
    module: ModuleOp, settings: Settings, candidates: int = CANDIDATES, rounds: int = ROUNDS
) -> Regret:
    """Times candidates for each contraction of `module`, which it lowers in place. Raises MdslError where the target's
    code cannot run. Nothing else should run meanwhile; what was measured is kept in the cache, as by `tune`."""
    context = context_of(settings.machine())
    run_passes(module, [*binding(module, settings.bind), *boxing(module)], context)
    step = Tune(candidates=candidates, rounds=rounds)
    run_passes(module, passes_before(step, level_of(module), replace(settings, tune=True)), context)
    return Regret(tuple(_tilings(module, step, context)))


def _tilings(module: ModuleOp, step: Tune, context: Context) -> Iterator[Tiling]:
    alike: dict[str, list[tuple[Op, linalg.LinalgOp]]] = {}
    for op, main in tunable(module):
        alike.setdefault(print_module(alone(op)), []).append((op, main))
    for number, layers in enumerate(alike.values(), 1):
        op, main = layers[0]
        context.progress(f"timing contraction {number} of {len(alike)}")
        tiles = tiles_of(op, main, context.target, step.candidates)
        seconds = measured(op, tiles, context, step.rounds)
        best = seconds.index(min(seconds))
        chosen = least = seconds[0]
        if best:
            # The least of many uncertain times is less than what it measures: the two are made and timed anew.
            least, chosen = measured(op, [tiles[best], tiles[0]], context, step.rounds)
        fastest = tiles[best if least < chosen else 0]
        shape = " * ".join("x".join(map(str, shaped_of(v).shape)) for v in main.inputs)
        yield Tiling(shape, len(layers), tuple(tiles[0]), tuple(fastest), chosen, min(chosen, least))
