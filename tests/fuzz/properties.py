"""The tests that hypothesis makes examples for, from other seeds than the suite's."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, Phase, settings

SUFFIX = "json"
TESTS = Path(__file__).parents[1]
EXAMPLES = 10


@cache
def _properties() -> dict[str, Callable[[int], None]]:
    """Each test, with each set of its parameters, by a name that stays as long as they do."""
    with (TESTS.parent / "pyproject.toml").open("rb") as file:
        folders = tomllib.load(file)["tool"]["pytest"]["ini_options"]["pythonpath"]
    sys.path[:0] = [str(TESTS.parent / folder) for folder in folders]
    found: dict[str, Callable[[int], None]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if "@given" in path.read_text():
            found.update(_in_file(path))
    return found


def _in_file(path: Path) -> Iterator[tuple[str, Callable[[int], None]]]:
    name = "fuzz_" + "_".join(path.relative_to(TESTS).with_suffix("").parts).replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for test in vars(module).values():
        if getattr(test, "is_hypothesis_test", False):
            for label, values in _parameters(test):
                yield f"{path.relative_to(TESTS)}::{test.__name__}{label}", _property(test, values)


def _parameters(test: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `pytest.mark.parametrize` gives the test. A test that needs a fixture is left out."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    choices: list[list[dict[str, Any]]] = []
    for mark in marks:
        names = (
            [name.strip() for name in mark.args[0].split(",")]
            if isinstance(mark.args[0], str)
            else mark.args[0]
        )
        rows = [
            row.values if isinstance(row, ParameterSet) else row if len(names) > 1 else (row,)
            for row in mark.args[1]
        ]
        choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for number, chosen in enumerate(product(*choices)):
        values = {name: value for row in chosen for name, value in row.items()}
        if set(inspect.signature(test).parameters) <= values.keys():
            yield f"[{number}]" if marks else "", values


def _property(test: Any, values: dict[str, Any]) -> Callable[[int], None]:
    def run(seed: int) -> None:
        own = settings(
            max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate], derandomize=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # What `hypothesis.seed` and `settings` set, where the test has them already.
            test._hypothesis_internal_use_seed, test._hypothesis_internal_use_settings = seed, own
            test(**values)

    return run


def make(seed: int) -> bytes:
    return json.dumps({"test": Random(seed).choice(sorted(_properties())), "seed": seed}).encode()


def check(data: bytes) -> None:
    case = json.loads(data)
    test = _properties().get(case["test"])
    if test is not None:  # a test may have been renamed since
        test(case["seed"])
