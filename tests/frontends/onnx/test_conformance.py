"""The committed table of ONNX's backend tests: each one passes, or fails, as the table says, and for that reason."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

pytest.importorskip("onnx")

from conformance import cases, outcome, read_table, write_table


def test_the_table_lists_every_case(golden: bool) -> None:
    if golden:
        write_table({name: outcome(name) for name in cases()})
    assert set(read_table()) == set(cases()), "renew the table: pytest --golden, see its head"


def _case(name: str) -> ParameterSet:
    """What is written as the simpler nodes that another case's node stands for is slow: of each such node there are cases."""
    return pytest.param(name, marks=pytest.mark.slow if "_expanded" in name else ())


@pytest.mark.parametrize("name", map(_case, read_table()))
def test_case(name: str, golden: bool) -> None:
    if golden:
        pytest.skip("the table is being renewed")
    assert outcome(name) == read_table()[name], "renew the table, if this is right: see its head"
