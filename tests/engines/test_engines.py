"""Random programs compute the same in every engine, with every number of workers and in every ablation.

`MDSL_FUZZ=1000 pytest -m slow tests/engines` runs that many programs of each kind through all settings; without
the variable it is 40. `MDSL_FUZZ_SEED` starts elsewhere. A failure prints its program, which stands alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from comparing import SETTINGS, compare, exceptional_arrays, some_settings
from graphs import exceptional, graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import loops
from norms import norms
from places import places
from structured import structured
from views import views

Generator = Callable[[Random], str]
GENERATORS = {f.__name__: f for f in (graph, structured, loops, norms, places, views)}
COUNT, FIRST = int(os.environ.get("MDSL_FUZZ", "40")), int(os.environ.get("MDSL_FUZZ_SEED", "100000"))
FOUND = sorted((Path(__file__).parent / "found").glob("*.mir"))
EXAMPLES = Path(__file__).parents[2] / "examples"

kinds = pytest.mark.parametrize("generate", GENERATORS.values(), ids=GENERATORS)


@kinds
@settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_engines_agree(generate: Generator, data: st.DataObject) -> None:
    random = data.draw(st.randoms(use_true_random=False))
    compare(generate(random), some_settings(random, 3))


@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_engines_agree_on_nan_and_infinity(random: Random) -> None:
    compare(exceptional(random), some_settings(random, 2), exceptional_arrays)


@pytest.mark.slow
@kinds
def test_many_programs_in_all_settings(generate: Generator) -> None:
    for seed in range(FIRST, FIRST + COUNT):
        text = generate(Random(seed))
        try:
            compare(text, SETTINGS)
        except Exception as error:
            error.add_note(f"{generate.__name__}, seed {seed}:\n{text}")
            raise


@pytest.mark.parametrize("path", FOUND, ids=lambda p: p.stem)
def test_programs_that_were_compiled_wrongly(path: Path) -> None:
    compare(path, [s for s in SETTINGS if s.unroll_dispatch in (None, 4)])


@pytest.mark.parametrize("name", ["matmul", "kernel", "mnist/cnn", "mnist/mlp"])
def test_examples_in_some_settings(name: str) -> None:
    compare(EXAMPLES / f"{name}.mir", some_settings(Random(name), 4))
